/* The product of a few rows by one panel's columns, for one size of vector: core/layer_packed.c includes it once a size
 * (no guard), with TILE_BYTES, a vector's; TILE_ROWS and TILE_VECTORS, so many sums that they stay in registers;
 * TILE_AHEAD, the lines that may be fetched ahead beside one step of k; TILE(name), the names made here; TILE_TARGET,
 * the functions' attributes. */
enum { TILE(lanes) = TILE_BYTES / sizeof(float) };

typedef float TILE(vector) __attribute__((vector_size(TILE_BYTES)));
typedef float TILE(loose) __attribute__((vector_size(TILE_BYTES), aligned(4), may_alias));
typedef int32_t TILE(mask) __attribute__((vector_size(TILE_BYTES)));

/* rows and vectors are constants where this is called, so that each sum is a register. */
TILE_TARGET __attribute__((always_inline))
static inline void TILE(tile)(const struct tile *t, const size_t rows, const size_t vectors, const char *ahead)
{
    TILE(vector) sum[TILE_ROWS][TILE_VECTORS];
    UNROLL
    for (size_t r = 0; r < rows; r++)
        UNROLL
        for (size_t v = 0; v < vectors; v++)
            if (t->start) sum[r][v] = *(const TILE(loose) *)(t->start + r * t->ld_start + v * TILE(lanes));
            else sum[r][v] = (TILE(vector)){ 0 };
    const float *weight = t->weight, *x = t->x;
    size_t in = t->in, ldx = t->ldx, step = t->step;
    for (size_t k = 0; k < in; k++, weight += step) {
        if (ahead) {
            UNROLL
            for (size_t line = 0; line < TILE_AHEAD; line++, ahead += LINE) __builtin_prefetch(ahead);
        }
        TILE(vector) column[TILE_VECTORS];
        UNROLL
        for (size_t v = 0; v < vectors; v++) column[v] = *(const TILE(vector) *)(weight + v * TILE(lanes));
        UNROLL
        for (size_t r = 0; r < rows; r++) {
            float value = x[r * ldx + k];
            UNROLL
            for (size_t v = 0; v < vectors; v++) sum[r][v] += value * column[v];
        }
    }
    UNROLL
    for (size_t r = 0; r < rows; r++)
        UNROLL
        for (size_t v = 0; v < vectors; v++) {
            TILE(vector) y = sum[r][v];
            if (t->leaky) {
                TILE(vector) slope = y * LEAKY_SLOPE;
                TILE(mask) above = y > 0.0f;
                y = (TILE(vector))(((TILE(mask))y & above) | ((TILE(mask))slope & ~above));
            }
            *(TILE(loose) *)(t->y + r * t->ldy + v * TILE(lanes)) = y;
        }
}

TILE_TARGET __attribute__((always_inline))
static inline void TILE(rows)(const struct tile *t, size_t rows, const size_t vectors)
{
    switch (rows) {
    case 1: TILE(tile)(t, 1, vectors, NULL); break;
    case 2: TILE(tile)(t, 2, vectors, NULL); break;
    case 3: TILE(tile)(t, 3, vectors, NULL); break;
    case 4: TILE(tile)(t, 4, vectors, NULL); break;
    case 5: TILE(tile)(t, 5, vectors, NULL); break;
    default: TILE(tile)(t, TILE_ROWS, vectors, NULL); break;
    }
}

TILE_TARGET
static void TILE(whole)(const struct tile *t, size_t rows, size_t columns)
{
    switch (columns / TILE(lanes)) {
    case 1: TILE(rows)(t, rows, 1); break;
#if TILE_VECTORS == 4
    case 2: TILE(rows)(t, rows, 2); break;
    case 3: TILE(rows)(t, rows, 3); break;
#endif
    default: TILE(rows)(t, rows, TILE_VECTORS); break;
    }
}

/* Columns that do not fill their last vector: by way of whole ones. */
TILE_TARGET
static void TILE(broken)(const struct tile *t, size_t rows, size_t columns)
{
    float start[TILE_VECTORS * TILE(lanes)] = { 0 }, y[TILE_VECTORS * TILE(lanes)];
    for (size_t r = 0; r < rows; r++) {
        struct tile one = *t;
        if (t->start) memcpy(start, t->start + r * t->ld_start, columns * sizeof *start);
        one.x += r * t->ldx;
        one.start = start;
        one.y = y;
        TILE(whole)(&one, 1, (columns + TILE(lanes) - 1) / TILE(lanes) * TILE(lanes));
        memcpy(t->y + r * t->ldy, y, columns * sizeof *y);
    }
}

/* A full tile that fetches ahead what its caller reads next. */
TILE_TARGET
static void TILE(fetching)(const struct tile *t, const char *ahead)
{
    TILE(tile)(t, TILE_ROWS, TILE_VECTORS, ahead);
}

/* Tiles begin .. end - 1, in the order of columns, then rows, of their sums those from k `from` to `to` - 1. */
TILE_TARGET
static void TILE(multiply)(const struct packed_job *job, size_t begin, size_t end, size_t from, size_t to,
                           const char *ahead)
{
    const struct packed *packed = job->packed;
    const size_t most = TILE_VECTORS * TILE(lanes), down = (job->n + TILE_ROWS - 1) / TILE_ROWS;
    for (size_t i = begin; i < end; i++) {
        size_t column = i / down * most, row = i % down * TILE_ROWS, panel = column / PACKED_PANEL * PACKED_PANEL,
               columns = packed->out - column < most ? packed->out - column : most,
               rows = job->n - row < TILE_ROWS ? job->n - row : TILE_ROWS;
        struct tile t = { .in = to - from, .step = panel_width(packed->out - panel), .ldx = job->ldx,
                          .ldy = job->ldy, .leaky = job->leaky && to == packed->in,
                          .x = job->x + row * job->ldx + from, .y = job->y + row * job->ldy + column };
        t.weight = packed->weight + panel * packed->in + from * t.step + column % PACKED_PANEL;
        t.ld_start = from ? job->ldy : job->ld_start;
        t.start = from ? t.y : job->start ? job->start + row * job->ld_start + column : NULL;
        bool full = rows == TILE_ROWS && columns == most;
        if (full && ahead) TILE(fetching)(&t, ahead);
        else if (columns % TILE(lanes)) TILE(broken)(&t, rows, columns);
        else TILE(whole)(&t, rows, columns);
        if (ahead) ahead += packed->in * TILE_AHEAD * LINE;
    }
}

static const struct kind TILE(kind) = { .multiply = TILE(multiply), .rows = TILE_ROWS,
                                        .columns = TILE_VECTORS * TILE(lanes), .ahead = TILE_AHEAD * LINE };

#undef TILE
#undef TILE_BYTES
#undef TILE_ROWS
#undef TILE_VECTORS
#undef TILE_AHEAD
#undef TILE_TARGET
