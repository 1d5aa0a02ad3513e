/* What push and live did, in numbers, and telling one who listens that something went wrong.
 *
 * The counters are added to without a lock. Who listens is told once, over the engine's completion ring, and asks
 * again when it wants to hear more: so it decides how often. */
#ifndef PD_NOTICE_H
#define PD_NOTICE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base.h"

struct pd_notice {
    pd_engine *engine;
    atomic_uint_fast64_t push_messages;
    atomic_uint_fast64_t push_records;
    atomic_uint_fast64_t push_invalid;
    atomic_uint_fast64_t push_not_captured;
    atomic_uint_fast64_t push_too_large;
    atomic_uint_fast64_t push_full;
    atomic_uint_fast64_t push_failed;
    atomic_uint_fast64_t live_refused;
    atomic_uint_fast64_t live_timeouts;
    atomic_uint_fast64_t live_records;
    atomic_uint_fast64_t live_sent;
    atomic_uint_fast64_t live_dropped;
    atomic_uint_fast64_t live_disconnected;

    pthread_mutex_t lock; /* guards what follows */
    bool watching;
    bool news; /* since the last time that somebody was told */
    uint64_t token;
    char refusal[512];
};

void pd_notice_init(struct pd_notice *notice, pd_engine *engine);
void pd_notice_fini(struct pd_notice *notice);

/* Records on push were refused: count them by status, keep the sentence, tell. */
void pd_notice_refuse(struct pd_notice *notice, int status, uint64_t records, const char *why);

/* Subscribers of live missed records, or were sent away. */
void pd_notice_tell(struct pd_notice *notice);

/* As pd_broker_watch. */
int pd_notice_watch(struct pd_notice *notice, uint64_t token, pd_error *error);

/* All but live_subscribers. */
void pd_notice_read(struct pd_notice *notice, pd_socket_statistics *out);

#endif
