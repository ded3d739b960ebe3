/* State that was learned with one list of features, carried over to another. Group and name say which feature is which;
 * one that was dense and is categorical now, or the other way round, counts as gone and come.
 *
 *   what both have       stays as it is, bit for bit
 *   what is gone         is left out
 *   what has come        rows: none yet. Weights that read it: 0, so that no score jumps when its first values come
 *                        (the gradient moves them from the first step on). Weights that write it (the decoder that
 *                        reconstructs user attributes) and moments: as in a fresh model
 *
 * Where a layer's inputs or outputs follow from the features, it is carried over part by part (core/model.h draws z):
 *
 *   ranking's first weight      columns: z          zero_shot.encoder_user.*.weight   columns: [before,] d, dense_a
 *   zero_shot.linear.weight     columns: n_a x d    zero_shot.decoder_user.2.*        rows: n_a x d
 *
 * No files here: the caller opens both sides and says what is refused (config_model_differences). */
#ifndef CORE_MIGRATE_H
#define CORE_MIGRATE_H

#include "core/event.h"
#include "core/learner.h"
#include "core/state.h"

struct migration;
/* Borrows both lists of features. dimension and options are the same on both sides. */
struct migration *migration_create(const struct features *from, const struct features *to, size_t dimension,
                                   const struct model_options *options, struct cs_error *err);
void migration_destroy(struct migration *migration);

/* A learner's load through this reader fills `into`, which was just created for the features `to`, with what `inner`
 * holds of the features `from`. Both are borrowed. */
struct state_reader *migration_reader(struct migration *migration, struct state_reader *inner, struct learner *into,
                                      struct cs_error *err);
/* The same impression with the columns of `to`: new ones are absent, behaviors beyond the new max_length go, oldest
 * first. Frees the old one. */
struct example *migration_example(const struct migration *migration, struct example *example);

#endif
