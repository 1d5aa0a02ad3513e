/* Live subscribers whose policy is `block`, fed out of the log. */
#include "feed.h"

#include "erasure.h"
#include "live.h"
#include "stream_internal.h"

#include <stdlib.h>

static bool wants(const struct pd_subscriber *subscriber)
{
    return !subscriber->gone && (!subscriber->known || subscriber->policy == PD_LIVE_BLOCK);
}

/* Note it for one subscriber; live's lock is held. False when there is no memory. */
static bool mark(struct pd_subscriber *subscriber, struct pd_stream *stream, uint64_t from, uint64_t to)
{
    struct pd_feed_cursor **at = &subscriber->cursors;
    while (*at != NULL && (*at)->stream != stream)
        at = &(*at)->next;
    if (*at == NULL) {
        struct pd_feed_cursor *made = calloc(1, sizeof *made);
        if (made == NULL)
            return false;
        pd_stream_ref(stream);
        made->stream = stream;
        made->sequence = from;
        *at = made;
    }
    (*at)->until = to;
    return true;
}

void pd_feed_mark(struct pd_live *live, struct pd_stream *stream, uint64_t from, uint64_t to)
{
    uint64_t missed = 0;
    if (from > to)
        return;
    pthread_mutex_lock(&live->lock);
    for (struct pd_subscriber *one = live->list; one != NULL; one = one->next)
        if (wants(one) && !mark(one, stream, from, to))
            missed += one->known ? to + 1 - from : 0;
    pthread_cond_signal(&live->feed_wake);
    pthread_mutex_unlock(&live->lock);
    pd_live_dropped(live, missed);
}

void pd_feed_forget(struct pd_feed_cursor *cursors)
{
    while (cursors != NULL) {
        struct pd_feed_cursor *cursor = cursors;
        cursors = cursor->next;
        pd_stream_unref(cursor->stream);
        free(cursor);
    }
}

/* The record that the reader is at as a frame behind the others; false when there is no room for it, or no memory. */
static bool add_frame(struct pd_subscriber *subscriber, const struct pd_reader *reader,
                      struct pd_live_subjects *subjects)
{
    const struct pd_record *record = &reader->record;
    const uint8_t *at = pd_reader_record(reader);
    struct pd_span subject = pd_live_subject(subjects, reader->batch, record->subject);
    struct pd_span payload = {at + PD_RECORD_HEADER + record->id_length + record->headers_length,
                              record->payload_length};
    size_t length = pd_live_frame_length(subscriber->ipc, subject, payload);
    if (subscriber->length + length > PD_LIVE_PIECE && subscriber->length > 0)
        return false;
    if (!pd_reserve((void **)&subscriber->buffer, &subscriber->capacity, subscriber->length + length, 1))
        return false;
    pd_live_frame(subscriber->ipc, subject, payload, subscriber->buffer + subscriber->length);
    subscriber->length += length;
    subscriber->records++;
    return true;
}

/* Put what comes next of the stream into the subscriber's buffer, up to `until`; how many records were missed. */
static uint64_t read_some(struct pd_subscriber *subscriber, struct pd_feed_cursor *cursor, uint64_t until)
{
    struct pd_stream *stream = cursor->stream;
    struct pd_log *log = &stream->log;
    struct pd_live_subjects subjects = {0};
    uint64_t batch = 0;
    uint64_t missed = 0;
    pthread_mutex_lock(&stream->lock);
    while (cursor->sequence <= until) {
        uint64_t next = stream->closed ? until + 1 : pd_min64(pd_log_next(log, cursor->sequence), until + 1);
        if (next == cursor->sequence && pd_reader_seek(&cursor->reader, log, next, NULL) != PD_OK)
            next = until + 1; /* consumers are told of damage */
        if (next > cursor->sequence) {
            missed += next - cursor->sequence;
            cursor->sequence = next;
            continue;
        }
        if (cursor->reader.header.base_sequence != batch) /* a compressed one may come to lie where another one did */
            subjects = (struct pd_live_subjects){0};
        batch = cursor->reader.header.base_sequence;
        bool added = add_frame(subscriber, &cursor->reader, &subjects);
        if (!added && subscriber->length > 0)
            break;
        missed += !added; /* there is no memory for it */
        cursor->sequence++;
    }
    pd_stream_unlock(stream);
    return missed;
}

/* The next one that can be fed, marked as busy; NULL when there is none. Live's lock is held. Who was served goes
 * behind the others by beginning where the last search ended. */
static struct pd_subscriber *choose(struct pd_live *live)
{
    struct pd_subscriber *first = NULL;
    struct pd_subscriber *later = NULL;
    bool passed = false;
    for (struct pd_subscriber *one = live->list; one != NULL; one = one->next) {
        bool ready = !one->gone && one->known && one->greeted && !one->sending && one->cursors != NULL &&
                     one->policy == PD_LIVE_BLOCK;
        if (ready && first == NULL)
            first = one;
        if (ready && passed && later == NULL)
            later = one;
        passed = passed || one->number == live->fed;
    }
    struct pd_subscriber *chosen = later != NULL ? later : first;
    if (chosen != NULL) {
        live->fed = chosen->number;
        chosen->sending = chosen->feeding = true;
    }
    return chosen;
}

/* Put it behind the others, or free it when it has come to the end. Live's lock is held. */
static struct pd_feed_cursor *settle_cursor(struct pd_subscriber *subscriber, struct pd_feed_cursor *cursor)
{
    subscriber->cursors = cursor->next;
    cursor->next = NULL;
    if (cursor->sequence > cursor->until)
        return cursor;
    struct pd_feed_cursor **end = &subscriber->cursors;
    while (*end != NULL)
        end = &(*end)->next;
    *end = cursor;
    return NULL;
}

static void feed(struct pd_live *live, struct pd_subscriber *subscriber)
{
    if (subscriber->capacity > PD_LIVE_PIECE) {
        free(subscriber->buffer);
        subscriber->buffer = NULL;
        subscriber->capacity = 0;
    }
    subscriber->length = subscriber->sent = 0;
    subscriber->records = 0;
    pthread_mutex_lock(&live->lock);
    struct pd_feed_cursor *cursor = subscriber->cursors; /* others are only added behind it meanwhile */
    uint64_t until = cursor->until;
    pthread_mutex_unlock(&live->lock);
    pd_live_dropped(live, read_some(subscriber, cursor, until));
    pthread_mutex_lock(&live->lock);
    struct pd_feed_cursor *done = settle_cursor(subscriber, cursor);
    bool send = subscriber->length > 0 && !subscriber->gone;
    subscriber->feeding = false;
    subscriber->sending = send;
    live->leaving = live->leaving || subscriber->gone;
    pthread_cond_broadcast(&live->wake);
    pthread_mutex_unlock(&live->lock);
    pd_feed_forget(done);
    if (send)
        pd_subscriber_transmit(subscriber);
}

static void *run(void *context)
{
    struct pd_live *live = context;
    pthread_setname_np(pthread_self(), "pd-feed");
    pthread_mutex_lock(&live->lock);
    while (!live->feed_stopping) {
        struct pd_subscriber *subscriber = choose(live);
        if (subscriber == NULL) {
            pthread_cond_wait(&live->feed_wake, &live->lock);
            continue;
        }
        pthread_mutex_unlock(&live->lock);
        feed(live, subscriber);
        pthread_mutex_lock(&live->lock);
    }
    pthread_mutex_unlock(&live->lock);
    return NULL;
}

int pd_feed_open(struct pd_live *live, pd_error *error)
{
    live->feeding = pthread_create(&live->feeder, NULL, run, live) == 0;
    return live->feeding ? PD_OK : pd_fail(error, PD_LIMIT_REACHED, "the system gives no more threads");
}

void pd_feed_close(struct pd_live *live)
{
    if (!live->feeding)
        return;
    pthread_mutex_lock(&live->lock);
    live->feed_stopping = true;
    pthread_cond_signal(&live->feed_wake);
    pthread_mutex_unlock(&live->lock);
    pthread_join(live->feeder, NULL);
    live->feeding = false;
}
