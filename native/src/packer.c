/* The thread that compresses sealed segments.
 *
 * A stream stands in the list once, from when a segment of it was sealed (or it was opened, or configured) until it has
 * nothing left to compress. One segment is compressed at a time, then the next stream has its turn. After a failure
 * (the disk is full) the stream waits for RETRY_NS; others go on.
 *
 * The thread runs at a low priority: when others want all of the processor it gets about a tenth of a core. Less would
 * let a machine that is always busy fall behind for ever.
 */
#include "packer.h"

#include "pack.h"
#include "stream.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define RETRY_NS ((uint64_t)60 * 1000000000u)
#define NICE     10

void pd_packer_init(struct pd_packer *packer, const struct pd_zstd *zstd)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    *packer = (struct pd_packer){.zstd = zstd};
    packer->list_end = &packer->list;
    atomic_init(&packer->cancel, false);
    pthread_mutex_init(&packer->lock, NULL);
    pthread_cond_init(&packer->wake, &attributes);
    pthread_cond_init(&packer->idle, NULL);
    pthread_condattr_destroy(&attributes);
}

static void append(struct pd_packer *packer, struct pd_stream *stream, uint64_t at_ns)
{
    stream->pack_at = at_ns;
    stream->pack_next = NULL;
    stream->pack_listed = true;
    *packer->list_end = stream;
    packer->list_end = &stream->pack_next;
}

static void take_out(struct pd_packer *packer, struct pd_stream **place)
{
    struct pd_stream *stream = *place;
    *place = stream->pack_next;
    if (packer->list_end == &stream->pack_next)
        packer->list_end = place;
    stream->pack_listed = false;
}

/* The first stream whose time has come; else *wait_ns is when the next one's does. */
static struct pd_stream *next_stream(struct pd_packer *packer, uint64_t *wait_ns)
{
    uint64_t now_ns = pd_mono_ns();
    *wait_ns = UINT64_MAX;
    for (struct pd_stream **place = &packer->list; *place != NULL; place = &(*place)->pack_next) {
        struct pd_stream *stream = *place;
        if (stream->pack_at <= now_ns) {
            take_out(packer, place);
            return stream;
        }
        *wait_ns = pd_min64(*wait_ns, stream->pack_at);
    }
    return NULL;
}

static void wait_for_work(struct pd_packer *packer, uint64_t until_ns)
{
    struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
    if (until_ns == UINT64_MAX)
        pthread_cond_wait(&packer->wake, &packer->lock);
    else
        pthread_cond_timedwait(&packer->wake, &packer->lock, &until);
}

/* The lock is held, and given up meanwhile. The list's reference to the stream is ours. */
static void work(struct pd_packer *packer, struct pd_stream *stream, struct pd_pack_tools *tools)
{
    packer->current = stream;
    pthread_mutex_unlock(&packer->lock);
    bool ready = tools->zstd != NULL || pd_pack_tools_init(tools, packer->zstd, NULL) == PD_OK;
    enum pd_pack_next next = ready ? pd_stream_pack(stream, tools, &packer->cancel) : PD_PACK_LATER;
    pthread_mutex_lock(&packer->lock);
    packer->current = NULL;
    pthread_cond_broadcast(&packer->idle);
    bool again = next != PD_PACK_NOTHING && !atomic_load(&packer->cancel);
    if (again && !stream->pack_listed) { /* else it was marked meanwhile, with a reference of its own */
        append(packer, stream, next == PD_PACK_LATER ? pd_mono_ns() + RETRY_NS : 0);
        return;
    }
    pthread_mutex_unlock(&packer->lock);
    pd_stream_unref(stream);
    pthread_mutex_lock(&packer->lock);
}

static void *run(void *context)
{
    struct pd_packer *packer = context;
    struct pd_pack_tools tools = {0};
    pthread_setname_np(pthread_self(), "pd-compress");
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE);
    pthread_mutex_lock(&packer->lock);
    while (!packer->stopping) {
        uint64_t until_ns;
        struct pd_stream *stream = next_stream(packer, &until_ns);
        if (stream != NULL) {
            work(packer, stream, &tools);
            continue;
        }
        if (tools.zstd != NULL)
            pd_pack_tools_fini(&tools);
        wait_for_work(packer, until_ns);
    }
    pthread_mutex_unlock(&packer->lock);
    if (tools.zstd != NULL)
        pd_pack_tools_fini(&tools);
    return NULL;
}

void pd_packer_mark(struct pd_packer *packer, struct pd_stream *stream)
{
    pthread_mutex_lock(&packer->lock);
    if (!packer->stopping && !packer->running && packer->zstd != NULL) /* without a thread it is tried next time */
        packer->running = pthread_create(&packer->thread, NULL, run, packer) == 0;
    if (packer->running && !packer->stopping) {
        if (!stream->pack_listed) {
            pd_stream_ref(stream);
            append(packer, stream, 0);
        }
        stream->pack_at = 0;
        pthread_cond_signal(&packer->wake);
    }
    pthread_mutex_unlock(&packer->lock);
}

void pd_packer_forget(struct pd_packer *packer, struct pd_stream *stream)
{
    bool listed = false;
    pthread_mutex_lock(&packer->lock);
    for (struct pd_stream **place = &packer->list; *place != NULL; place = &(*place)->pack_next) {
        if (*place != stream)
            continue;
        take_out(packer, place);
        listed = true;
        break;
    }
    atomic_store(&packer->cancel, packer->current == stream || packer->stopping);
    while (packer->current == stream)
        pthread_cond_wait(&packer->idle, &packer->lock);
    atomic_store(&packer->cancel, packer->stopping);
    pthread_mutex_unlock(&packer->lock);
    if (listed)
        pd_stream_unref(stream);
}

void pd_packer_stop(struct pd_packer *packer)
{
    pthread_mutex_lock(&packer->lock);
    packer->stopping = true;
    atomic_store(&packer->cancel, true);
    pthread_cond_signal(&packer->wake);
    bool running = packer->running;
    packer->running = false;
    pthread_mutex_unlock(&packer->lock);
    if (running)
        pthread_join(packer->thread, NULL);
}

void pd_packer_fini(struct pd_packer *packer)
{
    while (packer->list != NULL) {
        struct pd_stream *stream = packer->list;
        take_out(packer, &packer->list);
        pd_stream_unref(stream);
    }
    pthread_mutex_destroy(&packer->lock);
    pthread_cond_destroy(&packer->wake);
    pthread_cond_destroy(&packer->idle);
}
