/* safetensors (read, write) and npz (write): for parity cases and for people. */
#ifndef STORAGE_EXCHANGE_H
#define STORAGE_EXCHANGE_H

#include "core/tensor.h"

/* Tensors are announced first (name, type, shape), then given in any pieces in the same order: large tables stream. */
enum exchange_format { EXCHANGE_SAFETENSORS, EXCHANGE_NPZ };
struct exchange_writer;
struct exchange_writer *exchange_create(const char *file, enum exchange_format format, struct cs_error *err);
bool exchange_announce(struct exchange_writer *writer, const struct tensor *tensor,
                       struct cs_error *err); /* data ignored */
bool exchange_data(struct exchange_writer *writer, const void *bytes, size_t size, struct cs_error *err);
bool exchange_finish(struct exchange_writer *writer,
                     struct cs_error *err); /* fsync, rename into place; ends the writer either way */
void exchange_abandon(struct exchange_writer *writer);

/* Whole file mapped; every offset, shape and size is checked before use (CS_REFUSED says which tensor and why). */
struct exchange_file;
struct exchange_file *exchange_open(const char *file, struct cs_error *err);
void exchange_close(struct exchange_file *file);
size_t exchange_count(const struct exchange_file *file);
const struct tensor *exchange_tensor(const struct exchange_file *file,
                                     size_t index); /* data borrowed, may be unaligned: memcpy */
const struct tensor *exchange_find(const struct exchange_file *file, const char *name);    /* NULL: none */

#endif
