/* Memory of one configuration: taken piece by piece, wiped and given back at once, since secrets may be anywhere. */
#ifndef CONFIG_POOL_H
#define CONFIG_POOL_H

#include <stddef.h>

struct pool;
struct pool *pool_create(void);
void pool_destroy(struct pool *pool);       /* NULL is fine; every byte is overwritten first */
/* Zeroed, aligned for any type. Configurations are small and read at start and reload: without memory all ends. */
void *pool_take(struct pool *pool, size_t size);
char *pool_copy(struct pool *pool, const char *text, size_t length);
char *pool_format(struct pool *pool, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
