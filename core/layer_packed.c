/* Packed dense layers: tiles of rows by up to 64 columns, each sum in a register from its start to its activation. */
#include "core/layer_packed.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/layer_dense.h"

enum { WIDEST = 16 };         /* floats of the widest vector */
enum { LINE = 64, HUGE_PAGE = 2 << 20, PIECE = 24 << 10 };      /* bytes; a piece is most of the first-level cache */

struct tile {
    size_t in, ldx, ld_start, ldy, step;
    const float *weight;            /* a panel's, `step` floats a k */
    const float *x, *start;         /* start NULL: zeros */
    float *y;
    bool leaky;
};

/* A size of vectors. */
struct kind {
    void (*multiply)(const struct packed_job *job, size_t begin, size_t end, size_t from, size_t to,
                     const char *ahead);
    size_t rows, columns;           /* of a tile */
    size_t ahead;                   /* bytes that a tile fetches ahead for each k */
};

struct packed {
    size_t out, in;
    const struct kind *kind;
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
#define TILE_AHEAD 2
#define TILE_TARGET
#include "core/layer_packed_tile.h"

#ifdef __x86_64__
#define TILE(name) wide_##name
#define TILE_BYTES 64
#define TILE_ROWS 6
#define TILE_VECTORS 4
#define TILE_AHEAD 6
#ifdef __SANITIZE_ADDRESS__
/* gcc 12 puts its checked frames at multiples of 32 bytes and stores 64 there as if aligned (PR 110027). The narrow
 * tiles are checked. */
#define TILE_TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma"), no_sanitize("address")))
#else
#define TILE_TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma")))
#endif
#include "core/layer_packed_tile.h"

static const struct kind *kind_here(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
               ? &wide_kind
               : &narrow_kind;
}
#else
static const struct kind *kind_here(void) { return &narrow_kind; }
#endif

/* A request of one user reads all weights once: on huge pages, where there are any, without a miss of the TLB for every
 * 4 KiB. What does not fill one stays on small ones. */
static float *weights_create(size_t size)
{
    size_t unit = size >= HUGE_PAGE ? HUGE_PAGE : LINE, room = size ? (size + unit - 1) / unit * unit : unit;
    float *weight = aligned_alloc(unit, room);
#ifdef MADV_HUGEPAGE
    if (weight && size >= HUGE_PAGE) madvise(weight, size / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
    return weight ? memset(weight, 0, size) : NULL;
}

struct packed *packed_create(size_t out, size_t in, const float *weight, size_t ld, const float *scale)
{
    struct packed *packed = malloc(sizeof *packed);
    size_t size = (out + WIDEST - 1) / WIDEST * WIDEST * in * sizeof *weight;
    if (!packed) return NULL;
    *packed = (struct packed){ .out = out, .in = in, .kind = kind_here(), .weight = weights_create(size) };
    if (!packed->weight) {
        free(packed);
        return NULL;
    }
    for (size_t j = 0; j < out; j++) {
        size_t begin = j / PACKED_PANEL * PACKED_PANEL, step = panel_width(out - begin);
        float *panel = packed->weight + begin * in + j - begin;
        for (size_t k = 0; k < in; k++) panel[k * step] = weight[j * ld + k] * (scale ? scale[j] : 1.0f);
    }
    return packed;
}

void packed_narrow(struct packed *packed)
{
    packed->kind = &narrow_kind;
}

void packed_destroy(struct packed *packed)
{
    if (!packed) return;
    free(packed->weight);
    free(packed);
}

static size_t tiles_of(const struct packed_job *job)
{
    const struct kind *kind = job->packed->kind;
    return (job->packed->out + kind->columns - 1) / kind->columns * ((job->n + kind->rows - 1) / kind->rows);
}

/* As much of a job as it takes to fetch so many bytes meanwhile. */
static void work(struct packed_job *job, const float *ahead, size_t bytes)
{
    const struct packed *packed = job->packed;
    size_t left = tiles_of(job) - job->done, fetched = packed->in * packed->kind->ahead,       /* by a tile */
           take = fetched ? (bytes + fetched / 2) / fetched : left;
    if (take > left) take = left;
    packed->kind->multiply(job, job->done, job->done + take, 0, packed->in, (const char *)ahead);
    job->done += take;
}

void packed_finish(struct packed_job *job)
{
    size_t tiles = tiles_of(job);
    job->packed->kind->multiply(job, job->done, tiles, 0, job->packed->in, NULL);
    job->done = tiles;
}

/* Panel by panel, in pieces that the first-level cache has room for. */
static void multiply_in_turns(struct packed_job *job, struct packed_job *beside)
{
    const struct packed *packed = job->packed;
    for (size_t column = 0; column < packed->out; column += PACKED_PANEL) {
        size_t step = panel_width(packed->out - column), tile = column / packed->kind->columns,
               tiles = (step + packed->kind->columns - 1) / packed->kind->columns,
               piece = PIECE / (step * sizeof(float));
        for (size_t from = 0; from < packed->in; from += piece) {
            size_t to = packed->in - from < piece ? packed->in : from + piece;
            work(beside, packed->weight + column * packed->in + from * step, (to - from) * step * sizeof(float));
            packed->kind->multiply(job, tile, tile + tiles, from, to, NULL);
        }
    }
}

void packed_forward(const struct packed *packed, size_t n, const float *x, size_t ldx, const float *start,
                    size_t ld_start, bool leaky, float *y, size_t ldy, struct packed_job *beside)
{
    struct packed_job job = { .packed = packed, .n = n, .x = x, .start = start, .y = y, .ldx = ldx,
                              .ld_start = ld_start, .ldy = ldy, .leaky = leaky };
    if (beside && n && n <= packed->kind->rows && packed->in) multiply_in_turns(&job, beside);
    else packed_finish(&job);
}
