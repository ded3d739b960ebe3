/* The product of a few rows by one panel's columns, for one size of vector: core/layer_packed.c includes it once a size
 * (no guard), with TILE_BYTES, a vector's; TILE_ROWS and TILE_VECTORS, so many sums that they stay in registers;
 * TILE(name), the names made here; TILE_TARGET, the functions' attributes. */
enum { TILE(lanes) = TILE_BYTES / sizeof(float) };

typedef float TILE(vector) __attribute__((vector_size(TILE_BYTES)));
typedef float TILE(loose) __attribute__((vector_size(TILE_BYTES), aligned(4), may_alias));
typedef int32_t TILE(mask) __attribute__((vector_size(TILE_BYTES)));

/* rows is a constant where this is called, so that each sum is a register. */
TILE_TARGET __attribute__((always_inline))
static inline void TILE(rows)(const struct tile *t, const size_t rows)
{
    TILE(vector) sum[TILE_ROWS][TILE_VECTORS];
    UNROLL
    for (size_t r = 0; r < rows; r++)
        UNROLL
        for (size_t v = 0; v < TILE_VECTORS; v++)
            if (t->start) sum[r][v] = *(const TILE(loose) *)(t->start + r * t->ld_start + v * TILE(lanes));
            else sum[r][v] = (TILE(vector)){ 0 };
    const float *weight = t->weight, *x = t->x;
    size_t in = t->in, ldx = t->ldx;
    for (size_t k = 0; k < in; k++, weight += PACKED_PANEL) {
        TILE(vector) column[TILE_VECTORS];
        UNROLL
        for (size_t v = 0; v < TILE_VECTORS; v++) column[v] = *(const TILE(vector) *)(weight + v * TILE(lanes));
        UNROLL
        for (size_t r = 0; r < rows; r++) {
            float value = x[r * ldx + k];
            UNROLL
            for (size_t v = 0; v < TILE_VECTORS; v++) sum[r][v] += value * column[v];
        }
    }
    UNROLL
    for (size_t r = 0; r < rows; r++)
        UNROLL
        for (size_t v = 0; v < TILE_VECTORS; v++) {
            TILE(vector) y = sum[r][v];
            if (t->leaky) {
                TILE(vector) slope = y * LEAKY_SLOPE;
                TILE(mask) above = y > 0.0f;
                y = (TILE(vector))(((TILE(mask))y & above) | ((TILE(mask))slope & ~above));
            }
            *(TILE(loose) *)(t->y + r * t->ldy + v * TILE(lanes)) = y;
        }
}

/* The last columns, where fewer than a panel are left: by way of whole rows of their own. */
TILE_TARGET
static void TILE(rest)(const struct tile *t, size_t n, size_t columns)
{
    float start[TILE_VECTORS * TILE(lanes)] = { 0 }, y[TILE_VECTORS * TILE(lanes)];
    for (size_t r = 0; r < n; r++) {
        struct tile one = *t;
        if (t->start) memcpy(start, t->start + r * t->ld_start, columns * sizeof *start);
        one.x += r * t->ldx;
        one.start = start;
        one.y = y;
        TILE(rows)(&one, 1);
        memcpy(t->y + r * t->ldy, y, columns * sizeof *y);
    }
}

TILE_TARGET
static void TILE(multiply)(const struct packed *packed, size_t n, const struct tile *first)
{
    for (size_t column = 0; column < packed->out; column += TILE_VECTORS * TILE(lanes))
        for (size_t row = 0; row < n; row += TILE_ROWS) {
            struct tile t = *first;
            t.weight = packed->weight + column / PACKED_PANEL * packed->in * PACKED_PANEL + column % PACKED_PANEL;
            t.x += row * t.ldx;
            if (t.start) t.start += row * t.ld_start + column;
            t.y += row * t.ldy + column;
            if (packed->out - column < TILE_VECTORS * TILE(lanes)) {
                TILE(rest)(&t, n - row < TILE_ROWS ? n - row : TILE_ROWS, packed->out - column);
                continue;
            }
            switch (n - row) {
            case 1: TILE(rows)(&t, 1); break;
            case 2: TILE(rows)(&t, 2); break;
            case 3: TILE(rows)(&t, 3); break;
            case 4: TILE(rows)(&t, 4); break;
            case 5: TILE(rows)(&t, 5); break;
#if TILE_ROWS == 12
            case 6: TILE(rows)(&t, 6); break;
            case 7: TILE(rows)(&t, 7); break;
            case 8: TILE(rows)(&t, 8); break;
            case 9: TILE(rows)(&t, 9); break;
            case 10: TILE(rows)(&t, 10); break;
            case 11: TILE(rows)(&t, 11); break;
#endif
            default: TILE(rows)(&t, TILE_ROWS); break;
            }
        }
}

#undef TILE
#undef TILE_BYTES
#undef TILE_ROWS
#undef TILE_VECTORS
#undef TILE_TARGET
