/* Frames of compressed segments that are decompressed now, and the bound of the memory that they take.
 *
 * Reading a log gives pointers into its segments that are good until the stream's lock is given up. For a plain segment
 * that is free: it is mapped. A compressed one is decompressed into memory of its own (packed.c), a frame at a time,
 * and that memory is bounded for the whole engine. So a frame is given up, the one first that was asked for the longest
 * ago, when another one needs its room; but not
 *
 *     while the load under way needs it: a batch may lie across several frames,
 *     while it is pinned: a fetch picks records of many batches and copies them in the end.
 *
 * What a reader looks at without a pin is good until the next load. When all else fails (one fetch of many megabytes)
 * the bound is passed: the reader goes on, and what is too much is given up before the stream's lock is. So between the
 * calls into the engine the pool is never over its bound, and within them by what these threads have in their hands: at
 * most PD_FETCH_BYTES_MAX and one batch each.
 *
 * A list takes room from itself only: another stream's list needs that stream's lock. A stream that finds the pool full
 * of others' frames keeps none of its own once it has read, until the others read on or are closed.
 */
#include "frames.h"

#include "packed.h"

#include <stdlib.h>

int pd_pool_init(struct pd_frame_pool *pool, void *const *functions, uint64_t limit, pd_error *error)
{
    *pool = (struct pd_frame_pool){.limit = limit};
    atomic_init(&pool->bytes, 0);
    pthread_mutex_init(&pool->lock, NULL);
    if (pd_zstd_fill(&pool->zstd, functions) != 0)
        return pd_fail(error, PD_INVALID, "a function of zstd is missing");
    return PD_OK;
}

void pd_pool_fini(struct pd_frame_pool *pool)
{
    while (pool->context_count > 0)
        pool->zstd.ZSTD_freeDCtx(pool->contexts[--pool->context_count]);
    pthread_mutex_destroy(&pool->lock);
}

ZSTD_DCtx *pd_pool_take(struct pd_frame_pool *pool)
{
    ZSTD_DCtx *context = NULL;
    pthread_mutex_lock(&pool->lock);
    if (pool->context_count > 0)
        context = pool->contexts[--pool->context_count];
    pthread_mutex_unlock(&pool->lock);
    return context != NULL ? context : pool->zstd.ZSTD_createDCtx();
}

void pd_pool_give(struct pd_frame_pool *pool, ZSTD_DCtx *context)
{
    pthread_mutex_lock(&pool->lock);
    if (pool->context_count < PD_POOL_CONTEXTS) {
        pool->contexts[pool->context_count++] = context;
        context = NULL;
    }
    pthread_mutex_unlock(&pool->lock);
    if (context != NULL)
        pool->zstd.ZSTD_freeDCtx(context);
}

void pd_frames_init(struct pd_frames *frames, struct pd_frame_pool *pool)
{
    *frames = (struct pd_frames){.pool = pool, .pins = 1};
}

static void unlink_frame(struct pd_frames *frames, struct pd_frame *frame)
{
    *(frame->newer != NULL ? &frame->newer->older : &frames->newest) = frame->older;
    *(frame->older != NULL ? &frame->older->newer : &frames->oldest) = frame->newer;
    frame->newer = frame->older = NULL;
}

static void put_first(struct pd_frames *frames, struct pd_frame *frame)
{
    frame->turn = frames->turn;
    frame->newer = NULL;
    frame->older = frames->newest;
    *(frames->newest != NULL ? &frames->newest->newer : &frames->oldest) = frame;
    frames->newest = frame;
}

void pd_frames_add(struct pd_frames *frames, struct pd_frame *frame)
{
    frame->pin = 0;
    put_first(frames, frame);
    atomic_fetch_add(&frames->pool->bytes, PD_FRAME_SIZE);
}

void pd_frames_touch(struct pd_frames *frames, struct pd_frame *frame)
{
    frame->turn = frames->turn;
    if (frame == frames->newest)
        return;
    unlink_frame(frames, frame);
    put_first(frames, frame);
}

void pd_frames_remove(struct pd_frames *frames, struct pd_frame *frame)
{
    unlink_frame(frames, frame);
    atomic_fetch_sub(&frames->pool->bytes, PD_FRAME_SIZE);
}

void pd_frames_make_room(struct pd_frames *frames)
{
    struct pd_frame *frame = frames->oldest;
    while (frame != NULL && atomic_load(&frames->pool->bytes) + PD_FRAME_SIZE > frames->pool->limit) {
        struct pd_frame *newer = frame->newer;
        if (frame->pin != frames->pins && frame->turn != frames->turn)
            pd_packed_give_up(frame);
        frame = newer;
    }
}

void pd_frames_rest(struct pd_frames *frames)
{
    if (frames->oldest == NULL)
        return;
    pd_frames_unpin(frames);
    while (frames->oldest != NULL && atomic_load(&frames->pool->bytes) > frames->pool->limit)
        pd_packed_give_up(frames->oldest);
}
