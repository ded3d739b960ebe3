/* The product of a few rows by one panel's columns, for one size of vector: core/layer_packed.c includes it once a size
 * (no guard), with TILE_BYTES, a vector's; TILE_ROWS and TILE_VECTORS, so many sums that they stay in registers;
 * TILE(name), the names made here; TILE_TARGET, the functions' attributes. */
enum { TILE(lanes) = TILE_BYTES / sizeof(float) };

typedef float TILE(vector) __attribute__((vector_size(TILE_BYTES)));
typedef float TILE(loose) __attribute__((vector_size(TILE_BYTES), aligned(4), may_alias));
typedef int32_t TILE(mask) __attribute__((vector_size(TILE_BYTES)));

/* rows and vectors are constants where this is called, so that each sum is a register. */
TILE_TARGET __attribute__((always_inline))
static inline void TILE(tile)(const struct tile *t, const size_t rows, const size_t vectors)
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
    case 1: TILE(tile)(t, 1, vectors); break;
    case 2: TILE(tile)(t, 2, vectors); break;
    case 3: TILE(tile)(t, 3, vectors); break;
    case 4: TILE(tile)(t, 4, vectors); break;
    case 5: TILE(tile)(t, 5, vectors); break;
    default: TILE(tile)(t, TILE_ROWS, vectors); break;
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

TILE_TARGET
static void TILE(multiply)(const struct packed *packed, size_t n, const struct tile *first)
{
    const size_t most = TILE_VECTORS * TILE(lanes);
    for (size_t column = 0; column < packed->out; column += most) {
        size_t panel = column / PACKED_PANEL * PACKED_PANEL,
               columns = packed->out - column < most ? packed->out - column : most;
        for (size_t row = 0; row < n; row += TILE_ROWS) {
            struct tile t = *first;
            size_t rows = n - row < TILE_ROWS ? n - row : TILE_ROWS;
            t.step = panel_width(packed->out - panel);
            t.weight = packed->weight + panel * packed->in + column % PACKED_PANEL;
            t.x += row * t.ldx;
            if (t.start) t.start += row * t.ld_start + column;
            t.y += row * t.ldy + column;
            if (columns % TILE(lanes)) TILE(broken)(&t, rows, columns);
            else TILE(whole)(&t, rows, columns);
        }
    }
}

#undef TILE
#undef TILE_BYTES
#undef TILE_ROWS
#undef TILE_VECTORS
#undef TILE_TARGET
