/* Tensors by reference: the thread that writes a cut and the owner who wants to go on claim pieces one by one. The
 * writer copies what it can before the owner comes, or takes a piece straight from the array; the owner copies what is
 * left, and waits at most for one piece. */
#include <assert.h>

#include "core/need.h"
#include "storage/snapshot_internal.h"

enum piece { FREE, UNDER_WAY, TAKEN, ASIDE };

/* Memory for copies, kept from cut to cut: fresh pages cost more than the copying. Lent to one group of tensors at a
 * time; the last of the store and that group frees it. */
struct staging {
    pthread_mutex_t lock;
    unsigned users;
    bool lent;
    size_t size;
    unsigned char *bytes;
};

struct held_tensor { struct tensor tensor; size_t pieces; unsigned char *piece, *aside; bool own; };

struct held {
    struct state_hold hold;             /* first: what the owner has */
    struct held *next;
    pthread_mutex_t lock;
    pthread_cond_t done;                /* a piece is not under way any more */
    struct held_tensor *tensor;
    size_t tensors;
    unsigned users;                     /* the cut, and the owner after held_hold */
    bool released;                      /* by the cut: nobody will read */
    struct staging *staging;            /* lent to us, or NULL */
    size_t staged;                      /* bytes of it in use */
};

struct staging *staging_create(size_t size)
{
    struct staging *staging = calloc(1, sizeof *staging);
    if (!staging || !(staging->bytes = malloc(size + 1))) {
        free(staging);
        return NULL;
    }
    memset(staging->bytes, 0, size);    /* the pages are taken now */
    staging->size = size;
    staging->users = 1;
    pthread_mutex_init(&staging->lock, NULL);
    return staging;
}

static void staging_give_back(struct staging *staging, bool lent)
{
    pthread_mutex_lock(&staging->lock);
    if (lent) staging->lent = false;
    bool last = --staging->users == 0;
    pthread_mutex_unlock(&staging->lock);
    if (!last) return;
    pthread_mutex_destroy(&staging->lock);
    free(staging->bytes);
    free(staging);
}

void staging_release(struct staging *staging)
{
    if (staging) staging_give_back(staging, false);
}

static struct staging *staging_borrow(struct staging *staging)
{
    if (!staging) return NULL;
    pthread_mutex_lock(&staging->lock);
    bool free_now = !staging->lent;
    if (free_now) {
        staging->lent = true;
        staging->users++;
    }
    pthread_mutex_unlock(&staging->lock);
    return free_now ? staging : NULL;
}

static void leave(struct held *held)    /* with the lock; gives it back */
{
    bool last = --held->users == 0;
    pthread_mutex_unlock(&held->lock);
    if (!last) return;
    for (size_t i = 0; i < held->tensors; i++) {
        free(held->tensor[i].piece);
        if (held->tensor[i].own) free(held->tensor[i].aside);
    }
    if (held->staging) staging_give_back(held->staging, true);
    pthread_mutex_destroy(&held->lock);
    pthread_cond_destroy(&held->done);
    free(held->tensor);
    free(held);
}

static void copy_piece(const struct held_tensor *tensor, size_t piece, void *into)
{
    size_t size = segment_piece_size(&tensor->tensor, piece);
    if (tensor_bytes(&tensor->tensor)) memcpy(into, (const char *)tensor->tensor.data + piece * SEGMENT_PIECE, size);
    else memset(into, 0, size);
}

/* Where a tensor's copy goes; with the lock. */
static unsigned char *room_for(struct held *held, struct held_tensor *tensor)
{
    size_t last = tensor->pieces - 1, size = last * SEGMENT_PIECE + segment_piece_size(&tensor->tensor, last);
    size = (size + 63) & ~(size_t)63;
    if (held->staging && size <= held->staging->size - held->staged) {
        held->staged += size;
        return held->staging->bytes + held->staged - size;
    }
    unsigned char *bytes = need(malloc(size));
    tensor->own = true;
    return bytes;
}

/* Copies aside what nobody has claimed; with the lock, given back while it copies: both threads may be at it. */
static void set_aside(struct held *held)
{
    for (size_t i = 0; i < held->tensors; i++) {
        struct held_tensor *tensor = &held->tensor[i];
        for (size_t p = 0; p < tensor->pieces; p++) {
            if (tensor->piece[p] != FREE || held->released) continue;
            if (!tensor->aside) tensor->aside = room_for(held, tensor);
            tensor->piece[p] = UNDER_WAY;
            pthread_mutex_unlock(&held->lock);
            copy_piece(tensor, p, tensor->aside + p * SEGMENT_PIECE);
            pthread_mutex_lock(&held->lock);
            tensor->piece[p] = ASIDE;
            pthread_cond_broadcast(&held->done);
        }
    }
}

void held_take(struct held *held)
{
    pthread_mutex_lock(&held->lock);
    set_aside(held);
    pthread_mutex_unlock(&held->lock);
}

/* The owner's: afterwards no array is looked at any more. */
static void settle(struct state_hold *self)
{
    struct held *held = (struct held *)self;
    pthread_mutex_lock(&held->lock);
    set_aside(held);
    for (size_t i = 0; i < held->tensors; i++)
        for (size_t p = 0; p < held->tensor[i].pieces; p++)
            while (held->tensor[i].piece[p] == UNDER_WAY) pthread_cond_wait(&held->done, &held->lock);
    leave(held);
}

struct held *held_create(struct staging *staging)
{
    struct held *held = need(calloc(1, sizeof *held));
    held->hold.settle = settle;
    held->staging = staging_borrow(staging);
    held->users = 1;
    pthread_mutex_init(&held->lock, NULL);
    pthread_cond_init(&held->done, NULL);
    return held;
}

bool held_add(struct held *held, const struct tensor *tensor, struct cs_error *err)
{
    struct held_tensor *grown = realloc(held->tensor, (held->tensors + 1) * sizeof *grown);
    size_t pieces = segment_tensor_pieces(tensor);
    unsigned char *piece = calloc(pieces, 1);
    if (grown) held->tensor = grown;
    if (!grown || !piece) {
        free(piece);
        return cs_fail(err, CS_FAILED, "out of memory for a snapshot of tensor %s", tensor->name);
    }
    held->tensor[held->tensors++] = (struct held_tensor){ .tensor = *tensor, .pieces = pieces, .piece = piece };
    return true;
}

struct state_hold *held_hold(struct held *held)
{
    pthread_mutex_lock(&held->lock);
    held->users++;
    pthread_mutex_unlock(&held->lock);
    return &held->hold;
}

struct held *held_next(struct held *held) { return held->next; }
void held_set_next(struct held *held, struct held *next) { held->next = next; }
size_t held_tensors(const struct held *held) { return held->tensors; }
const struct tensor *held_tensor(const struct held *held, size_t tensor) { return &held->tensor[tensor].tensor; }

void held_read(struct held *held, size_t number, size_t piece, void *into)
{
    struct held_tensor *tensor = &held->tensor[number];
    pthread_mutex_lock(&held->lock);
    while (tensor->piece[piece] == UNDER_WAY) pthread_cond_wait(&held->done, &held->lock);
    bool aside = tensor->piece[piece] == ASIDE;
    assert(aside || tensor->piece[piece] == FREE);
    if (!aside) tensor->piece[piece] = UNDER_WAY;
    pthread_mutex_unlock(&held->lock);
    if (aside) memcpy(into, tensor->aside + piece * SEGMENT_PIECE, segment_piece_size(&tensor->tensor, piece));
    else copy_piece(tensor, piece, into);
    if (aside) return;
    pthread_mutex_lock(&held->lock);
    tensor->piece[piece] = TAKEN;
    pthread_cond_broadcast(&held->done);
    pthread_mutex_unlock(&held->lock);
}

void held_release(struct held *held)
{
    pthread_mutex_lock(&held->lock);
    held->released = true;
    leave(held);
}
