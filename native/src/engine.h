/* The engine: all streams, the threads that serve them, and the counters. */
#ifndef PD_ENGINE_H
#define PD_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "advisory.h"
#include "base.h"
#include "commit.h"
#include "completion.h"
#include "frames.h"
#include "gate.h"
#include "hash.h"
#include "packer.h"
#include "router.h"
#include "stream.h"
#include "timer.h"

struct pd_broker;
struct pd_live;

struct pd_counters {
    atomic_uint_fast64_t appends;
    atomic_uint_fast64_t appended_records;
    atomic_uint_fast64_t appended_bytes;
    atomic_uint_fast64_t duplicates;
    atomic_uint_fast64_t syncs;
    atomic_uint_fast64_t refused;
    atomic_uint_fast64_t delivered_records;
    atomic_uint_fast64_t acks;
    atomic_uint_fast64_t requests;
    atomic_uint_fast64_t bad_requests;
};

/* Locks, outermost first: engine.opening; engine.lock; a stream's lock; then the commit thread's, the timer's, the
 * packer's, the ring's and the broker's, which are leaves. A stream's lock is never taken while engine.lock is held. */
struct pd_engine {
    char *directory;
    pd_options options;
    struct pd_hash_key hash_key;
    struct pd_counters counters;
    atomic_bool stopping;
    atomic_uint_fast64_t pending_bytes; /* of batches that were taken and not yet answered */
    atomic_uint consumers;
    atomic_uint waiting; /* fetches */

    pthread_mutex_t opening; /* one stream is made, changed or removed at a time; outside of all other locks */
    pthread_mutex_t lock;    /* guards what follows */
    struct pd_router *router;
    struct pd_stream **streams;
    uint32_t stream_count;

    struct pd_commit commit;
    struct pd_timer timer;
    struct pd_completions completions;
    struct pd_advisories advisories;
    struct pd_gate gate;
    struct pd_packer packer;
    struct pd_frame_pool frames;
    struct pd_frame_pool *pool;         /* that, or NULL: there is no zstd */
    _Atomic(struct pd_broker *) broker; /* set once */
    _Atomic(struct pd_live *) live;     /* set once: who is told what readers see */
};

static inline void pd_count(atomic_uint_fast64_t *counter, uint64_t by)
{
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

/* A stream by name with a reference, or NULL and the error. */
struct pd_stream *pd_engine_stream(pd_engine *engine, const char *name, pd_error *error);

/* The stream that captures a subject, with a reference, or NULL. */
struct pd_stream *pd_engine_route(pd_engine *engine, const char *subject);

/* All streams with a reference each; *streams is malloc'ed. */
size_t pd_engine_streams(pd_engine *engine, struct pd_stream ***streams);

/* Check a batch completely and find the stream that it is for (name may be ""), with a reference. */
int pd_engine_accept(pd_engine *engine, const char *name, const uint8_t *data, size_t length,
                     struct pd_batch_view *batch, struct pd_stream **stream, pd_error *error);

/* The second half of it, for a batch that is known to be right. */
int pd_engine_owner(pd_engine *engine, const char *name, const struct pd_batch_view *batch, struct pd_stream **stream,
                    pd_error *error);

/* Room for batches that wait for the disk: always taken when nothing waits. Giving back wakes the broker. */
bool pd_engine_take_room(pd_engine *engine, size_t bytes);
void pd_engine_give_room(pd_engine *engine, size_t bytes);

#endif
