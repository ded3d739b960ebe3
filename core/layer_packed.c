/* Packed dense layers: tiles of rows by up to 64 columns, each sum in a register from its start to its activation. */
#include "core/layer_packed.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/layer_dense.h"

enum { WIDEST = 16 };         /* floats of the widest vector */

struct tile {
    size_t in, ldx, ld_start, ldy, step;
    const float *weight;            /* a panel's, `step` floats a k */
    const float *x, *start;         /* start NULL: zeros */
    float *y;
    bool leaky;
};

typedef void multiply_tiles(const struct packed *packed, size_t n, const struct tile *first);

struct packed {
    size_t out, in;
    multiply_tiles *multiply;
    float *weight;                  /* panels, on 64 bytes */
};

/* The last panel is as wide as need be, in vectors of 16. */
static size_t panel_width(size_t columns)
{
    return columns < PACKED_PANEL ? (columns + WIDEST - 1) / WIDEST * WIDEST : PACKED_PANEL;
}

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 12")
#endif

#define TILE(name) narrow_##name
#define TILE_BYTES 32
#define TILE_ROWS 6
#define TILE_VECTORS 2
#define TILE_TARGET
#include "core/layer_packed_tile.h"

#ifdef __x86_64__
#define TILE(name) wide_##name
#define TILE_BYTES 64
#define TILE_ROWS 6
#define TILE_VECTORS 4
#ifdef __SANITIZE_ADDRESS__
/* gcc 12 puts its checked frames at multiples of 32 bytes and stores 64 there as if aligned (PR 110027). The narrow
 * tiles are checked. */
#define TILE_TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma"), no_sanitize("address")))
#else
#define TILE_TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma")))
#endif
#include "core/layer_packed_tile.h"

static multiply_tiles *multiply_here(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
               ? wide_multiply
               : narrow_multiply;
}
#else
static multiply_tiles *multiply_here(void) { return narrow_multiply; }
#endif

struct packed *packed_create(size_t out, size_t in, const float *weight, size_t ld, const float *scale)
{
    struct packed *packed = malloc(sizeof *packed);
    size_t size = (out + WIDEST - 1) / WIDEST * WIDEST * in * sizeof *weight;
    if (!packed) return NULL;
    *packed = (struct packed){ .out = out, .in = in, .multiply = multiply_here(),
                               .weight = aligned_alloc(64, size ? size : 64) };
    if (!packed->weight) {
        free(packed);
        return NULL;
    }
    memset(packed->weight, 0, size);
    for (size_t j = 0; j < out; j++) {
        size_t begin = j / PACKED_PANEL * PACKED_PANEL, step = panel_width(out - begin);
        float *panel = packed->weight + begin * in + j - begin;
        for (size_t k = 0; k < in; k++) panel[k * step] = weight[j * ld + k] * (scale ? scale[j] : 1.0f);
    }
    return packed;
}

void packed_narrow(struct packed *packed)
{
    packed->multiply = narrow_multiply;
}

void packed_destroy(struct packed *packed)
{
    if (!packed) return;
    free(packed->weight);
    free(packed);
}

void packed_forward(const struct packed *packed, size_t n, const float *x, size_t ldx, const float *start,
                    size_t ld_start, bool leaky, float *y, size_t ldy)
{
    struct tile tile = { .in = packed->in, .ldx = ldx, .ld_start = ld_start, .ldy = ldy, .x = x, .start = start,
                         .y = y, .leaky = leaky };
    packed->multiply(packed, n, &tile);
}
