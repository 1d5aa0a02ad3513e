/* The timer thread: sleeps until the next deadline of any stream, and is woken for pipes that are gone. */
#ifndef PD_TIMER_H
#define PD_TIMER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "platformd.h"

struct pd_stream;

struct pd_timer {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    uint64_t wake_at; /* what the thread sleeps until */
    uint32_t *gone;   /* pipes */
    size_t gone_count;
    size_t gone_capacity;
    bool stopping;
    bool running;
};

int pd_timer_start(struct pd_timer *timer, pd_engine *engine);
void pd_timer_stop(struct pd_timer *timer);

/* The stream wants pd_stream_tick at that time of pd_mono_ns, or earlier. May be called with its lock held. */
void pd_timer_schedule(struct pd_timer *timer, struct pd_stream *stream, uint64_t at_ns);

/* What went to the pipe is to be freed. */
void pd_timer_pipe_gone(struct pd_timer *timer, uint32_t pipe);

#endif
