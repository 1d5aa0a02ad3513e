/* The timer thread.
 *
 * Each stream has one deadline, the earliest of its long polls, deliveries and retention; the thread sleeps
 * until the earliest of those. A deadline is never taken back (an acknowledgement does not look for the timer):
 * the thread then wakes once for nothing and learns the next one. With nothing to wait for it sleeps for good.
 */
#include "timer.h"

#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

static void release_pipes(pd_engine *engine, const uint32_t *gone, size_t count)
{
    struct pd_stream **streams;
    size_t stream_count = pd_engine_streams(engine, &streams);
    for (size_t i = 0; i < stream_count; i++) {
        for (size_t j = 0; j < count; j++)
            pd_stream_release(streams[i], gone[j]);
        pd_stream_unref(streams[i]);
    }
    free(streams);
}

/* Tick the streams that are due; the earliest deadline of all. */
static uint64_t tick_streams(pd_engine *engine)
{
    struct pd_timer *timer = &engine->timer;
    struct pd_stream **streams;
    uint64_t earliest = UINT64_MAX;
    size_t count = pd_engine_streams(engine, &streams);
    for (size_t i = 0; i < count; i++) {
        pthread_mutex_lock(&timer->lock);
        bool due = streams[i]->timer_at <= pd_mono_ns();
        if (due)
            streams[i]->timer_at = UINT64_MAX;
        pthread_mutex_unlock(&timer->lock);
        uint64_t next = due ? pd_stream_tick(streams[i]) : UINT64_MAX;
        pthread_mutex_lock(&timer->lock);
        streams[i]->timer_at = pd_min64(streams[i]->timer_at, next);
        earliest = pd_min64(earliest, streams[i]->timer_at);
        pthread_mutex_unlock(&timer->lock);
        pd_stream_unref(streams[i]);
    }
    free(streams);
    return earliest;
}

static void sleep_until(struct pd_timer *timer)
{
    if (timer->wake_at == UINT64_MAX) {
        pthread_cond_wait(&timer->wake, &timer->lock);
        return;
    }
    struct timespec until = {(time_t)(timer->wake_at / 1000000000u), (long)(timer->wake_at % 1000000000u)};
    pthread_cond_timedwait(&timer->wake, &timer->lock, &until);
}

static void *run(void *context)
{
    pd_engine *engine = context;
    struct pd_timer *timer = &engine->timer;
    pthread_setname_np(pthread_self(), "pd-timer");
    pthread_mutex_lock(&timer->lock);
    while (!timer->stopping) {
        if (timer->gone_count > 0) {
            uint32_t *gone = timer->gone;
            size_t count = timer->gone_count;
            timer->gone = NULL;
            timer->gone_count = timer->gone_capacity = 0;
            pthread_mutex_unlock(&timer->lock);
            release_pipes(engine, gone, count);
            free(gone);
            pthread_mutex_lock(&timer->lock);
        } else if (timer->wake_at > pd_mono_ns()) {
            sleep_until(timer);
        } else {
            timer->wake_at = UINT64_MAX; /* what is scheduled from now on lowers it again */
            pthread_mutex_unlock(&timer->lock);
            uint64_t earliest = tick_streams(engine);
            pthread_mutex_lock(&timer->lock);
            timer->wake_at = pd_min64(timer->wake_at, earliest);
        }
    }
    pthread_mutex_unlock(&timer->lock);
    return NULL;
}

int pd_timer_start(struct pd_timer *timer, pd_engine *engine)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&timer->lock, NULL);
    pthread_cond_init(&timer->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    timer->wake_at = UINT64_MAX;
    timer->running = pthread_create(&timer->thread, NULL, run, engine) == 0;
    return timer->running ? 0 : -1;
}

void pd_timer_stop(struct pd_timer *timer)
{
    if (!timer->running)
        return;
    pthread_mutex_lock(&timer->lock);
    timer->stopping = true;
    pthread_cond_signal(&timer->wake);
    pthread_mutex_unlock(&timer->lock);
    pthread_join(timer->thread, NULL);
    timer->running = false;
    free(timer->gone);
    timer->gone = NULL;
}

void pd_timer_schedule(struct pd_timer *timer, struct pd_stream *stream, uint64_t at_ns)
{
    pthread_mutex_lock(&timer->lock);
    stream->timer_at = pd_min64(stream->timer_at, at_ns);
    if (at_ns < timer->wake_at) {
        timer->wake_at = at_ns;
        pthread_cond_signal(&timer->wake);
    }
    pthread_mutex_unlock(&timer->lock);
}

void pd_timer_pipe_gone(struct pd_timer *timer, uint32_t pipe)
{
    pthread_mutex_lock(&timer->lock);
    if (!timer->stopping &&
        pd_reserve((void **)&timer->gone, &timer->gone_capacity, timer->gone_count + 1, sizeof *timer->gone)) {
        timer->gone[timer->gone_count++] = pipe;
        pthread_cond_signal(&timer->wake);
    } /* else: no memory; its deliveries come back after ack_wait */
    pthread_mutex_unlock(&timer->lock);
}
