/* Events and the layout of an example (drawn in event.h). */
#include "core/event.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

static size_t padded(size_t bytes) { return (bytes + 7) & ~(size_t)7; }

static size_t whole_size(size_t behaviors, size_t keys, size_t dense, size_t columns, size_t id_length)
{
    return sizeof(struct example) + (behaviors + keys) * sizeof(uint64_t) + padded(dense * sizeof(float)) +
           padded(columns) + padded(id_length + 1);
}

struct example *example_create(const struct features *features, size_t id_length, size_t behavior_count,
                               size_t key_count)
{
    assert(id_length < UINT16_MAX && behavior_count <= UINT16_MAX);
    size_t size = whole_size(behavior_count, key_count, features->dense_count, features->categorical_count, id_length);
    assert(size <= UINT32_MAX);
    struct example *example = need(malloc(size));
    memset(example, 0, sizeof *example);
    example->size = (uint32_t)size;
    example->id_length = (uint16_t)id_length;
    example->behavior_count = (uint16_t)behavior_count;
    example->key_count = (uint32_t)key_count;
    example->dense_count = (uint16_t)features->dense_count;
    example->column_count = (uint16_t)features->categorical_count;
    float *dense = example_dense(example);
    for (size_t i = 0; i < features->dense_count; i++) dense[i] = NAN;
    if (features->dense_count & 1) memset(&dense[features->dense_count], 0, sizeof(float));
    memset(example_keys_of(example), 0, padded(features->categorical_count));
    memset(example_id(example), 0, padded(id_length + 1));
    return example;
}

struct example *example_copy(const struct example *example)
{
    return memcpy(need(malloc(example->size)), example, example->size);
}

struct example *example_with_behaviors(struct example *example, const uint64_t *behavior, size_t count)
{
    assert(count <= UINT16_MAX);
    size_t rest = example->size - sizeof *example - example->behavior_count * sizeof(uint64_t);
    size_t size = sizeof *example + count * sizeof(uint64_t) + rest;
    struct example *changed = need(malloc(size));
    *changed = *example;
    changed->size = (uint32_t)size;
    changed->behavior_count = (uint16_t)count;
    if (count) memcpy(example_behaviors(changed), behavior, count * sizeof(uint64_t));
    memcpy(example_keys(changed), example_keys(example), rest);
    free(example);
    return changed;
}

bool example_check(const struct features *features, const void *bytes, size_t size)
{
    const struct example *example = bytes;
    if (size < sizeof *example || example->size != size || (size & 7)) return false;
    if (example->dense_count != features->dense_count || example->column_count != features->categorical_count)
        return false;
    if (example->behavior_count > features->behavior_max_length) return false;
    if (example->key_count > size / sizeof(uint64_t)) return false;
    if (whole_size(example->behavior_count, example->key_count, example->dense_count, example->column_count,
                   example->id_length) != size)
        return false;
    if (example->clicked > 1 || example->converted > 1 || example->has_behaviors > 1 || example->correction > 1)
        return false;
    size_t keys = 0;
    const uint8_t *keys_of = example_keys_of(example);
    for (size_t i = 0; i < example->column_count; i++) keys += keys_of[i];
    return keys == example->key_count && example_id(example)[example->id_length] == '\0';
}

uint64_t *example_behaviors(const struct example *example) { return (uint64_t *)(example + 1); }
uint64_t *example_keys(const struct example *example) { return example_behaviors(example) + example->behavior_count; }
float *example_dense(const struct example *example) { return (float *)(example_keys(example) + example->key_count); }

uint8_t *example_keys_of(const struct example *example)
{
    return (uint8_t *)example_dense(example) + padded(example->dense_count * sizeof(float));
}

char *example_id(const struct example *example)
{
    return (char *)example_keys_of(example) + padded(example->column_count);
}

void event_release(struct event *event)
{
    free(event->example);
    free(event->id);
    event->example = NULL;
    event->id = NULL;
}
