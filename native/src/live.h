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
    atomic_uint epoch;       /* times that there was a first one */
    pthread_t thread;
    bool running;
    uint8_t *scratch; /* the thread's copy of a batch */
    size_t scratch_capacity;

    pthread_mutex_t lock; /* guards what follows; no nng function that could wait or call back is called with it */
    pthread_cond_t wake;
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

#endif
