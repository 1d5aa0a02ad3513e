/* The live socket: whoever is connected hears every record once readers may see it, as far as it can keep up.
 *
 * To a subscriber it is nng's PUB socket: ipc, tcp and tls+tcp, the handshake of SP (each side sends eight bytes: 0,
 * "SP", 0, the protocol as u16 big-endian, 0, 0; PUB is 0x20, SUB is 0x21), then messages of the form in live_ring.c:
 * subject, a line feed, payload. Filtering is the subscriber's, by prefix, as SUB does it: every subscriber is sent
 * everything. It is not made of nng's own PUB socket, because that makes a system call a record, drops without a
 * word, and cannot say who is slow. Here many records leave with one call, and each that a subscriber misses counts.
 *
 * Appending costs one look at a counter while nobody listens. With subscribers it also marks its stream; the thread
 * here then reads the batches that became visible out of the log, as any reader does, so a record is published no
 * earlier than consumers see it, and memory does not grow with what the thread has not read yet. It puts the records
 * into the ring, where each subscriber has its own place. Who is slower than the ring is long loses the oldest; who
 * takes nothing at all for live_timeout_ms is disconnected; nobody waits for either. That is the policy drop_oldest;
 * a subscriber of ours may ask for another one in its hello (subscriber.c): disconnect ends the connection instead of
 * dropping, block feeds it out of the log (feed.h).
 *
 * Records of one stream come in its order; streams do not wait for each other. A subscriber hears what becomes
 * visible after it was accepted.
 */
#include "live.h"

#include "erasure.h"
#include "feed.h"
#include "listen.h"
#include "reader.h"
#include "stream_internal.h"

#include <stdlib.h>
#include <time.h>

#define SCRATCH_KEPT ((size_t)1 << 20)
#define BEHIND_MAX   ((uint64_t)1 << 20)   /* records that the thread may be behind; it skips what is over */
#define RETRY_NS     100000000u            /* for accepting, when the system is out of something */
#define LINGER_NS    ((uint64_t)500000000) /* for subscribers to take the last records */

void pd_live_mark(struct pd_live *live, struct pd_stream *stream)
{
    unsigned epoch = atomic_load(&live->epoch);
    if (stream->live_epoch != epoch) { /* the first that somebody hears */
        stream->live_epoch = epoch;
        stream->live_sequence = stream->visible_sequence;
    }
    if (stream->live_dirty)
        return;
    stream->live_dirty = true;
    pd_stream_ref(stream);
    pthread_mutex_lock(&live->lock);
    stream->live_next = NULL;
    *live->dirty_end = stream;
    live->dirty_end = &stream->live_next;
    pthread_cond_broadcast(&live->wake);
    pthread_mutex_unlock(&live->lock);
}

void pd_live_dropped(struct pd_live *live, uint64_t records)
{
    if (records == 0)
        return;
    pd_count(&live->notice->live_dropped, records);
    pd_notice_tell(live->notice);
}

/* So many records will not be in the ring. */
static void count_missed(struct pd_live *live, uint64_t records)
{
    unsigned all = atomic_load(&live->subscribers);
    unsigned fed = atomic_load(&live->waiting);
    pd_live_dropped(live, all > fed ? records * (all - fed) : 0);
}

/* The next batch of the stream into the scratch, and the sequences of it that are to be published; false when there
 * is none, or it cannot be read. */
static bool copy_batch(struct pd_live *live, struct pd_stream *stream, struct pd_batch_header *header, uint64_t *first,
                       uint64_t *last)
{
    struct pd_log *log = &stream->log;
    uint64_t visible = stream->visible_sequence;
    uint64_t after = stream->live_sequence;
    if (visible > BEHIND_MAX)
        after = pd_max64(after, visible - BEHIND_MAX);
    if (pd_log_segment(log, after + 1) == NULL) /* retention or a purge was quicker */
        after = pd_log_next_kept(log, after + 1) - 1;
    if (after >= visible) {
        count_missed(live, visible - stream->live_sequence);
        stream->live_sequence = visible;
        return false;
    }
    count_missed(live, after - stream->live_sequence);
    if (pd_reader_seek_batch(&stream->live_reader, log, after + 1, NULL) != PD_OK) {
        count_missed(live, visible - after); /* consumers are told of damage */
        stream->live_sequence = visible;
        return false;
    }
    *header = stream->live_reader.header;
    *first = after + 1;
    *last = pd_min64(visible, header->base_sequence + header->record_count - 1);
    stream->live_sequence = *last;
    if (!pd_reserve((void **)&live->scratch, &live->scratch_capacity, header->length, 1)) {
        count_missed(live, *last - after);
        return false;
    }
    memcpy(live->scratch, stream->live_reader.batch, header->length);
    return true;
}

static bool next_batch(struct pd_live *live, struct pd_stream *stream, struct pd_batch_header *header, uint64_t *first,
                       uint64_t *last)
{
    pthread_mutex_lock(&stream->lock);
    bool heard = atomic_load(&live->subscribers) > 0 && stream->live_epoch == atomic_load(&live->epoch);
    uint64_t before = stream->live_sequence;
    bool any = heard && !stream->closed && copy_batch(live, stream, header, first, last);
    uint64_t to = heard && !stream->closed ? stream->live_sequence : before;
    if (!any)
        stream->live_dirty = false; /* from here on it is marked again */
    pd_stream_unlock(stream);
    pd_feed_mark(live, stream, before + 1, to);
    return any;
}

static void pump_all(struct pd_live *live)
{
    pthread_mutex_lock(&live->lock);
    struct pd_subscriber *subscriber = live->list;
    while (subscriber != NULL) { /* only this thread takes one out */
        pthread_mutex_unlock(&live->lock);
        pd_subscriber_pump(subscriber);
        pthread_mutex_lock(&live->lock);
        subscriber = subscriber->next;
    }
    pthread_mutex_unlock(&live->lock);
}

struct pd_span pd_live_subject(struct pd_live_subjects *subjects, const uint8_t *batch, uint32_t wanted)
{
    if (subjects->batch != batch || wanted < subjects->index)
        *subjects = (struct pd_live_subjects){batch, batch + PD_BATCH_HEADER, 0};
    for (; subjects->index < wanted; subjects->index++)
        subjects->at += 1 + *subjects->at;
    return (struct pd_span){subjects->at + 1, *subjects->at};
}

/* Put the records of the scratch's batch into the ring, and let subscribers go on. */
static void publish_batch(struct pd_live *live, const struct pd_batch_header *header, uint64_t first, uint64_t last)
{
    const uint8_t *at = live->scratch + header->records_offset;
    const uint8_t *end = live->scratch + header->length;
    struct pd_live_subjects subjects = {0};
    uint64_t sequence = header->base_sequence;
    while (sequence <= last) {
        uint64_t published = 0;
        uint64_t too_large = 0;
        const uint8_t *piece = at;
        pthread_mutex_lock(&live->lock);
        for (; sequence <= last && (size_t)(at - piece) < PD_LIVE_PIECE; sequence++) {
            struct pd_record record;
            if (!pd_record_load(at, (size_t)(end - at), &record) || record.subject >= header->subject_count) {
                last = 0; /* its checksum was right, so this is not reached */
                break;
            }
            struct pd_span subject = pd_live_subject(&subjects, live->scratch, record.subject);
            struct pd_span payload = {at + PD_RECORD_HEADER + record.id_length + record.headers_length,
                                      record.payload_length};
            if (sequence >= first) {
                bool fits = pd_live_ring_put(&live->ring, subject, payload);
                published += fits;
                too_large += !fits;
            }
            at += record.length;
        }
        pthread_mutex_unlock(&live->lock);
        pd_count(&live->notice->live_records, published);
        count_missed(live, too_large);
        pump_all(live);
    }
}

static void publish(struct pd_live *live, struct pd_stream *stream)
{
    struct pd_batch_header header;
    uint64_t first;
    uint64_t last;
    while (next_batch(live, stream, &header, &first, &last)) {
        publish_batch(live, &header, first, last);
        if (live->scratch_capacity > SCRATCH_KEPT) {
            free(live->scratch);
            live->scratch = NULL;
            live->scratch_capacity = 0;
        }
    }
}

/* Free the subscribers that are gone and have nothing under way. */
static void bury(struct pd_live *live)
{
    struct pd_subscriber *dead = NULL;
    pthread_mutex_lock(&live->lock);
    live->leaving = false;
    for (struct pd_subscriber **at = &live->list; *at != NULL;) {
        struct pd_subscriber *subscriber = *at;
        bool idle = !subscriber->sending && !subscriber->receiving;
        if (subscriber->gone && idle) {
            *at = subscriber->next;
            subscriber->next = dead;
            dead = subscriber;
        } else {
            at = &subscriber->next;
        }
    }
    pthread_mutex_unlock(&live->lock);
    while (dead != NULL) {
        struct pd_subscriber *subscriber = dead;
        dead = subscriber->next;
        pd_subscriber_free(subscriber);
    }
}

static void accept_again(struct pd_live *live)
{
    pthread_mutex_lock(&live->lock);
    live->paused = false;
    for (uint32_t i = 0; i < live->listener_count; i++) {
        struct pd_live_listener *listener = &live->listeners[i];
        bool begin = !listener->accepting && !live->stopping;
        listener->accepting = listener->accepting || begin;
        pthread_mutex_unlock(&live->lock);
        if (begin)
            live->nng->nng_stream_listener_accept(listener->listener, listener->aio);
        pthread_mutex_lock(&live->lock);
    }
    pthread_mutex_unlock(&live->lock);
}

static struct timespec after_ns(uint64_t ns)
{
    uint64_t at = pd_mono_ns() + ns;
    return (struct timespec){(time_t)(at / 1000000000u), (long)(at % 1000000000u)};
}

/* Until every subscriber has what is in the ring, or for a while. */
static void linger(struct pd_live *live)
{
    struct timespec until = after_ns(LINGER_NS);
    int rc = 0;
    pthread_mutex_lock(&live->lock);
    while (rc == 0) {
        bool behind = false;
        for (struct pd_subscriber *one = live->list; one != NULL; one = one->next)
            behind = behind || (!one->gone && one->known &&
                                (one->sending || (one->policy == PD_LIVE_BLOCK ? one->cursors != NULL
                                                                               : one->place.at < live->ring.head.at)));
        if (!behind)
            break;
        rc = pthread_cond_timedwait(&live->wake, &live->lock, &until);
    }
    pthread_mutex_unlock(&live->lock);
}

/* The next stream with something new; NULL when there is other work, or the end. */
static struct pd_stream *wait_for_work(struct pd_live *live, bool *stopping)
{
    pthread_mutex_lock(&live->lock);
    while (live->dirty == NULL && !live->leaving && !live->stopping) {
        struct timespec until = after_ns(RETRY_NS);
        if (!live->paused)
            pthread_cond_wait(&live->wake, &live->lock);
        else if (pthread_cond_timedwait(&live->wake, &live->lock, &until) != 0)
            break;
    }
    struct pd_stream *stream = live->dirty;
    if (stream != NULL) {
        live->dirty = stream->live_next;
        if (live->dirty == NULL)
            live->dirty_end = &live->dirty;
    }
    *stopping = live->stopping;
    pthread_mutex_unlock(&live->lock);
    return stream;
}

static void *run(void *context)
{
    struct pd_live *live = context;
    bool stopping = false;
    pthread_setname_np(pthread_self(), "pd-live");
    for (;;) {
        struct pd_stream *stream = wait_for_work(live, &stopping);
        if (stream != NULL) {
            publish(live, stream);
            pd_stream_unref(stream);
        } else if (stopping) {
            break;
        }
        bury(live);
        if (live->paused)
            accept_again(live);
    }
    linger(live);
    return NULL;
}

static void on_accept(void *context)
{
    struct pd_live_listener *listener = context;
    struct pd_live *live = listener->live;
    int result = live->nng->nng_aio_result(listener->aio);
    if (result == 0)
        pd_subscriber_accept(live, live->nng->nng_aio_get_output(listener->aio, 0), listener->ipc);
    pthread_mutex_lock(&live->lock);
    listener->accepting = result == 0 && !live->stopping;
    bool on = listener->accepting;
    if (result != 0 && !live->stopping) {
        live->paused = true;
        pthread_cond_broadcast(&live->wake);
    }
    pthread_mutex_unlock(&live->lock);
    if (on)
        live->nng->nng_stream_listener_accept(listener->listener, listener->aio);
}

static int listen_at(struct pd_live *live, pd_listen *listen)
{
    const struct pd_nng *nng = live->nng;
    struct pd_live_listener *made = &live->listeners[live->listener_count++];
    int port = 0;
    *made = (struct pd_live_listener){.live = live, .ipc = pd_is_ipc(listen->url)};
    int rv = nng->nng_stream_listener_alloc(&made->listener, listen->url);
    if (rv == 0 && made->ipc)
        rv = nng->nng_stream_listener_set_int(made->listener, PD_OPTION_MODE, PD_SOCKET_MODE);
    if (rv == 0 && listen->tls != NULL)
        rv = nng->nng_stream_listener_set_ptr(made->listener, PD_OPTION_TLS, listen->tls);
    if (rv == 0)
        rv = nng->nng_stream_listener_listen(made->listener);
    if (rv == 0 && !made->ipc)
        rv = nng->nng_stream_listener_get_int(made->listener, PD_OPTION_PORT, &port);
    if (rv == 0)
        rv = nng->nng_aio_alloc(&made->aio, on_accept, made);
    listen->port = (uint32_t)port;
    return rv;
}

static int listen_all(struct pd_live *live, pd_listen *listens, uint32_t count, pd_error *error)
{
    live->listeners = calloc(count, sizeof *live->listeners);
    if (live->listeners == NULL)
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for the live socket");
    for (uint32_t i = 0; i < count; i++) {
        int rv = listens[i].socket == PD_SOCKET_LIVE ? listen_at(live, &listens[i]) : 0;
        if (rv != 0)
            return pd_listen_failed(live->nng, listens[i].url, rv, error);
    }
    return live->listener_count > 0 ? PD_OK : pd_fail(error, PD_INVALID, "socket %u has no address", PD_SOCKET_LIVE);
}

int pd_live_open(struct pd_live *live, pd_engine *engine, const struct pd_nng *nng, struct pd_notice *notice,
                 pd_listen *listens, uint32_t listen_count, const pd_broker_options *options, pd_error *error)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&live->lock, NULL);
    pthread_cond_init(&live->wake, &attributes);
    pthread_cond_init(&live->feed_wake, &attributes);
    pthread_condattr_destroy(&attributes);
    live->engine = engine;
    live->nng = nng;
    live->notice = notice;
    live->options = *options;
    live->dirty_end = &live->dirty;
    if (!pd_live_ring_init(&live->ring, options->live_buffer))
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for %llu bytes of live records",
                       (unsigned long long)options->live_buffer);
    int rc = listen_all(live, listens, listen_count, error);
    if (rc != PD_OK)
        return rc;
    live->running = pthread_create(&live->thread, NULL, run, live) == 0;
    if (!live->running)
        return pd_fail(error, PD_LIMIT_REACHED, "the system gives no more threads");
    rc = pd_feed_open(live, error);
    if (rc != PD_OK)
        return rc;
    atomic_store(&engine->live, live);
    accept_again(live);
    return PD_OK;
}

static void free_listeners(struct pd_live *live)
{
    const struct pd_nng *nng = live->nng;
    for (uint32_t i = 0; i < live->listener_count; i++) {
        struct pd_live_listener *listener = &live->listeners[i];
        if (listener->listener == NULL)
            continue;
        nng->nng_stream_listener_close(listener->listener);
        if (listener->aio != NULL) {
            nng->nng_aio_stop(listener->aio);
            nng->nng_aio_free(listener->aio);
        }
        nng->nng_stream_listener_free(listener->listener);
    }
    free(live->listeners);
    live->listeners = NULL;
    live->listener_count = 0;
}

void pd_live_fini(struct pd_live *live)
{
    if (live->nng == NULL)
        return;
    pthread_mutex_lock(&live->lock);
    live->stopping = true;
    pthread_cond_broadcast(&live->wake);
    pthread_mutex_unlock(&live->lock);
    if (live->running)
        pthread_join(live->thread, NULL);
    live->running = false;
    pd_feed_close(live);
    free_listeners(live);
    while (live->list != NULL) {
        struct pd_subscriber *subscriber = live->list;
        live->list = subscriber->next;
        pd_subscriber_leave(subscriber);
        pd_subscriber_free(subscriber);
    }
    while (live->dirty != NULL) {
        struct pd_stream *stream = live->dirty;
        live->dirty = stream->live_next;
        pd_stream_unref(stream);
    }
    pd_live_ring_fini(&live->ring);
    free(live->scratch);
    live->scratch = NULL;
    live->nng = NULL;
}
