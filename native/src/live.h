/* The live socket: whoever is connected hears every record once readers may see it, as far as it can keep up. The
 * messages and the handshake are at the head of live.c. */
#ifndef PD_LIVE_H
#define PD_LIVE_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine.h"
#include "live_ring.h"
#include "nng_api.h"
#include "notice.h"
#include "subscriber.h"

#define PD_LIVE_PIECE ((size_t)1 << 16) /* bytes that are sent at a time; one larger record is sent whole */

/* What becomes of a subscriber that is too slow, as its hello says it. */
enum pd_live_policy {
    PD_LIVE_DROP_OLDEST = 1, /* it misses the oldest records */
    PD_LIVE_BLOCK = 2,       /* its own feed waits; see feed.h */
    PD_LIVE_DISCONNECT = 3,  /* it is sent away before it misses one that it could know of */
};

struct pd_live_listener {
    struct pd_live *live;
    nng_stream_listener *listener;
    nng_aio *aio;
    bool ipc;
    bool accepting; /* guarded by live's lock */
};

struct pd_live {
    pd_engine *engine;
    const struct pd_nng *nng;
    struct pd_notice *notice;
    pd_broker_options options;
    struct pd_live_listener *listeners;
    uint32_t listener_count;
    atomic_uint subscribers; /* connected, or about to be */
    atomic_uint waiting;     /* of them: with PD_LIVE_BLOCK */
    atomic_uint epoch;       /* times that there was a first one */
    pthread_t thread;
    bool running;
    pthread_t feeder;
    bool feeding;
    uint8_t *scratch; /* the thread's copy of a batch */
    size_t scratch_capacity;

    pthread_mutex_t lock; /* guards what follows; no nng function that could wait or call back is called with it */
    pthread_cond_t wake;
    pthread_cond_t feed_wake;
    uint64_t last_number; /* of a subscriber */
    uint64_t fed;         /* the number of the one that was fed last */
    bool feed_stopping;
    struct pd_live_ring ring;
    struct pd_subscriber *list;
    struct pd_stream *dirty; /* streams with something new, with a reference each */
    struct pd_stream **dirty_end;
    bool leaving; /* somebody in the list is gone */
    bool paused;  /* a listener failed to accept and does not try */
    bool stopping;
};

/* Listen and start the thread. The live is zeroed memory; after a failure fini it. */
int pd_live_open(struct pd_live *live, pd_engine *engine, const struct pd_nng *nng, struct pd_notice *notice,
                 pd_listen *listens, uint32_t listen_count, const pd_broker_options *options, pd_error *error);

/* Publish what is there, give subscribers a little time to take it, and close. */
void pd_live_fini(struct pd_live *live);

/* Readers of the stream will see its records up to `sequence`; its lock is held. Only called with subscribers. */
void pd_live_mark(struct pd_live *live, struct pd_stream *stream);

/* So many records did not reach a subscriber. */
void pd_live_dropped(struct pd_live *live, uint64_t records);

/* Where the subjects of a batch are: one after the other they are found in one pass. Zeroed for a new batch. */
struct pd_live_subjects {
    const uint8_t *batch;
    const uint8_t *at;
    uint32_t index;
};

/* The subject with that index in the batch. */
struct pd_span pd_live_subject(struct pd_live_subjects *subjects, const uint8_t *batch, uint32_t wanted);

#endif
