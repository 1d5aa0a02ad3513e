/* Frames of compressed segments that are decompressed now, and the bound of the memory that they take.
 *
 * One pool an engine counts them and has the bound; each log has a list of its own, guarded by its stream's lock, and
 * gives frames up from that list only. See frames.c for when. */
#ifndef PD_FRAMES_H
#define PD_FRAMES_H

#include <pthread.h>
#include <stdatomic.h>

#include "base.h"
#include "zstd_api.h"

#define PD_FRAME_SIZE ((uint64_t)256 << 10)

#define PD_POOL_CONTEXTS 4

/* What is shared by all logs of an engine. */
struct pd_frame_pool {
    struct pd_zstd zstd;
    uint64_t limit;             /* bytes */
    atomic_uint_fast64_t bytes; /* that are decompressed now */
    pthread_mutex_t lock;       /* guards what follows; a leaf */
    ZSTD_DCtx *contexts[PD_POOL_CONTEXTS];
    unsigned context_count;
};

struct pd_packed;

/* A frame that is decompressed: part of its file's array. */
struct pd_frame {
    struct pd_frame *newer;
    struct pd_frame *older;
    struct pd_packed *packed; /* NULL: it is not decompressed */
    uint64_t turn;            /* of the last load that asked for it */
    uint64_t pin;             /* it stays while the list's pins is this */
};

/* Those of one log. */
struct pd_frames {
    struct pd_frame_pool *pool; /* NULL: compressed segments cannot be read */
    struct pd_frame *newest;
    struct pd_frame *oldest;
    uint64_t turn; /* the load under way, or the last one */
    uint64_t pins; /* counts from 1 */
};

/* functions: as pd_zstd_fill takes them. */
int pd_pool_init(struct pd_frame_pool *pool, void *const *functions, uint64_t limit, pd_error *error);
void pd_pool_fini(struct pd_frame_pool *pool);

/* A context for decompressing, to be given back; NULL: no memory. */
ZSTD_DCtx *pd_pool_take(struct pd_frame_pool *pool);
void pd_pool_give(struct pd_frame_pool *pool, ZSTD_DCtx *context);

void pd_frames_init(struct pd_frames *frames, struct pd_frame_pool *pool);

/* The frame was decompressed, or is asked for again. */
void pd_frames_add(struct pd_frames *frames, struct pd_frame *frame);
void pd_frames_touch(struct pd_frames *frames, struct pd_frame *frame);

/* Take a frame out of the list. */
void pd_frames_remove(struct pd_frames *frames, struct pd_frame *frame);

/* Give frames up until one more fits, of those that nobody has pinned and the load under way does not need. */
void pd_frames_make_room(struct pd_frames *frames);

/* Nothing is pinned from here on. */
static inline void pd_frames_unpin(struct pd_frames *frames)
{
    frames->pins++;
}

/* Nobody points into a frame: give up what is over the pool's bound. To be called before the lock is given up. */
void pd_frames_rest(struct pd_frames *frames);

#endif
