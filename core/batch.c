/* Examples -> columns of batch-local row numbers. */
#include "core/batch.h"

#include <assert.h>
#include <string.h>

/* Finds a key's batch-local row. Keys are XXH3 already, so their own bits place them; a slot holds row + 1, 0: free. */
struct row_index {
    uint32_t *slot;
    size_t mask;
};

static struct row_index row_index_create(struct arena *arena, size_t values)
{
    size_t slots = 16;
    while (slots < values * 2) slots *= 2;
    return (struct row_index){ .slot = arena_take_zeroed(arena, slots * sizeof(uint32_t)), .mask = slots - 1 };
}

static uint32_t row_of(struct row_index *index, struct batch_table *table, uint64_t key)
{
    for (size_t at = (key ^ key >> 32) & index->mask;; at = (at + 1) & index->mask) {
        if (!index->slot[at]) {
            assert(table->count < UINT32_MAX);
            table->key[table->count] = key;
            table->sightings[table->count] = 1;
            index->slot[at] = (uint32_t)++table->count;
            return index->slot[at] - 1;
        }
        uint32_t row = index->slot[at] - 1;
        if (table->key[row] == key) {
            table->sightings[row]++;
            return row;
        }
    }
}

static void table_of_column(const struct features *features, size_t *table_of)
{
    for (size_t i = 0; i < features->count; i++)
        if (features->feature[i].kind == FEATURE_CATEGORICAL)
            table_of[features->feature[i].column] = features->feature[i].table;
}

/* How many values each table and each column will be asked for, so that every array is taken once, at its size. */
static void take_arrays(const struct features *features, struct example *const *example, size_t count,
                        const size_t *table_of, struct batch *batch, struct row_index *index)
{
    struct arena *arena = batch->arena;
    size_t columns = features->categorical_count, behaviors = 0;
    size_t *in_column = arena_take_zeroed(arena, columns * sizeof *in_column);
    size_t *in_table = arena_take_zeroed(arena, features->table_count * sizeof *in_table);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *keys_of = example_keys_of(example[i]);
        for (size_t column = 0; column < columns; column++) in_column[column] += keys_of[column];
        behaviors += example[i]->behavior_count;
    }
    for (size_t column = 0; column < columns; column++) {
        in_table[table_of[column]] += in_column[column];
        batch->column[column].offset = arena_take(arena, (count + 1) * sizeof(uint32_t));
        batch->column[column].row = arena_take(arena, in_column[column] * sizeof(uint32_t));
        batch->column[column].offset[0] = 0;
    }
    in_table[features->behavior_table] += behaviors;
    batch->behavior.offset = arena_take(arena, (count + 1) * sizeof(uint32_t));
    batch->behavior.row = arena_take(arena, behaviors * sizeof(uint32_t));
    batch->behavior.offset[0] = 0;
    for (size_t table = 0; table < features->table_count; table++) {
        batch->table[table].key = arena_take(arena, in_table[table] * sizeof(uint64_t));
        batch->table[table].sightings = arena_take(arena, in_table[table] * sizeof(uint32_t));
        index[table] = row_index_create(arena, in_table[table]);
    }
}

static void add_values(struct batch_column *column, size_t i, struct row_index *index, struct batch_table *table,
                       const uint64_t *key, size_t keys)
{
    uint32_t at = column->offset[i];
    for (size_t j = 0; j < keys; j++) column->row[at++] = row_of(index, table, key[j]);
    column->offset[i + 1] = at;
}

static void add_example(const struct features *features, const struct example *example, size_t i,
                        const size_t *table_of, struct batch *batch, struct row_index *index)
{
    const uint64_t *key = example_keys(example);
    const uint8_t *keys_of = example_keys_of(example);
    for (size_t column = 0; column < features->categorical_count; column++) {
        size_t table = table_of[column];
        add_values(&batch->column[column], i, &index[table], &batch->table[table], key, keys_of[column]);
        key += keys_of[column];
    }
    size_t table = features->behavior_table;
    add_values(&batch->behavior, i, &index[table], &batch->table[table], example_behaviors(example),
               example->behavior_count);

    const float *dense = example_dense(example);
    for (size_t column = 0; column < features->dense_count; column++)
        batch->dense[column * batch->size + i] = dense[column];
    char *id = arena_take(batch->arena, example->id_length + 1u);
    memcpy(id, example_id(example), example->id_length + 1u);
    batch->id[i] = id;
    batch->clicked[i] = example->clicked;
    batch->converted[i] = example->converted;
    batch->correction[i] = example->correction;
    batch->is_new[i] = example->behavior_count == 0;
    batch->user[i] = example->user;
    batch->item[i] = example->item;
    batch->shown[i] = example->shown;
    batch->time[i] = example->time;
    batch->released[i] = example->released;
    if (i == 0 || example->released > batch->last_time) batch->last_time = example->released;
}

struct batch *batch_build(const struct features *features, struct example *const *example, size_t count,
                          struct arena *arena)
{
    arena_reset(arena);
    struct batch *batch = arena_take_zeroed(arena, sizeof *batch);
    batch->size = count;
    batch->arena = arena;
    batch->table = arena_take_zeroed(arena, features->table_count * sizeof *batch->table);
    batch->column = arena_take_zeroed(arena, features->categorical_count * sizeof *batch->column);
    batch->dense = arena_take(arena, features->dense_count * count * sizeof *batch->dense);
    batch->clicked = arena_take(arena, count);
    batch->converted = arena_take(arena, count);
    batch->correction = arena_take(arena, count);
    batch->is_new = arena_take(arena, count);
    batch->user = arena_take(arena, count * sizeof *batch->user);
    batch->item = arena_take(arena, count * sizeof *batch->item);
    batch->shown = arena_take(arena, count * sizeof *batch->shown);
    batch->time = arena_take(arena, count * sizeof *batch->time);
    batch->released = arena_take(arena, count * sizeof *batch->released);
    batch->id = arena_take(arena, count * sizeof *batch->id);
    size_t *table_of = arena_take(arena, features->categorical_count * sizeof *table_of);
    struct row_index *index = arena_take(arena, features->table_count * sizeof *index);
    table_of_column(features, table_of);
    take_arrays(features, example, count, table_of, batch, index);
    for (size_t i = 0; i < count; i++) add_example(features, example[i], i, table_of, batch, index);
    return batch;
}

static size_t copy_values(const struct batch_column *column, size_t i, const struct batch_table *table, uint64_t *key)
{
    size_t count = column->offset[i + 1] - column->offset[i];
    for (size_t j = 0; j < count; j++) key[j] = table->key[column->row[column->offset[i] + j]];
    return count;
}

struct example *batch_example(const struct features *features, const struct batch *batch, size_t i)
{
    const struct batch_column *behavior = &batch->behavior;
    size_t keys = 0;
    for (size_t column = 0; column < features->categorical_count; column++)
        keys += batch->column[column].offset[i + 1] - batch->column[column].offset[i];
    struct example *example = example_create(features, 0, behavior->offset[i + 1] - behavior->offset[i], keys);
    uint64_t *key = example_keys(example);
    for (size_t f = 0; f < features->count; f++) {      /* in order of column */
        const struct feature *feature = &features->feature[f];
        if (feature->kind != FEATURE_CATEGORICAL) continue;
        size_t count = copy_values(&batch->column[feature->column], i, &batch->table[feature->table], key);
        example_keys_of(example)[feature->column] = (uint8_t)count;
        key += count;
    }
    copy_values(behavior, i, &batch->table[features->behavior_table], example_behaviors(example));
    for (size_t column = 0; column < features->dense_count; column++)
        example_dense(example)[column] = batch->dense[column * batch->size + i];
    example->clicked = batch->clicked[i];
    example->converted = batch->converted[i];
    example->correction = batch->correction[i];
    example->has_behaviors = 1;
    example->user = batch->user[i];
    example->item = batch->item[i];
    example->time = batch->time[i];
    example->released = batch->released[i];
    return example;
}

static bool check_column(const struct batch_column *column, size_t size, size_t rows)
{
    if (column->offset[0] != 0) return false;
    for (size_t i = 0; i < size; i++)
        if (column->offset[i + 1] < column->offset[i]) return false;
    for (uint32_t i = 0; i < column->offset[size]; i++)
        if (column->row[i] >= rows) return false;
    return true;
}

bool batch_check(const struct features *features, const struct batch *batch)
{
    for (size_t i = 0; i < features->count; i++) {
        const struct feature *feature = &features->feature[i];
        if (feature->kind == FEATURE_CATEGORICAL &&
            !check_column(&batch->column[feature->column], batch->size, batch->table[feature->table].count))
            return false;
    }
    if (!check_column(&batch->behavior, batch->size, batch->table[features->behavior_table].count)) return false;
    for (size_t i = 0; i < batch->size; i++) {
        bool is_new = batch->behavior.offset[i + 1] == batch->behavior.offset[i];
        if (batch->is_new[i] != is_new || batch->clicked[i] > 1 || batch->converted[i] > 1 || !batch->id[i])
            return false;
    }
    return true;
}
