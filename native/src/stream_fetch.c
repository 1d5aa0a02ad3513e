/* Fetching from a stream: at once, waiting, and looking without a consumer. */
#include "engine.h"
#include "erasure.h"
#include "stream_internal.h"

#include "subject.h"

#include <stdlib.h>

bool pd_fetch_any(const struct pd_fetch *fetch, uint64_t ignored)
{
    (void)fetch;
    (void)ignored;
    return true;
}

bool pd_fetch_owned(const struct pd_fetch *fetch, uint64_t owner)
{
    return fetch->owner == owner;
}

bool pd_fetch_expired(const struct pd_fetch *fetch, uint64_t now_ns)
{
    return fetch->deadline_ns <= now_ns;
}

static void finish(struct pd_stream *stream, struct pd_consumer *consumer, struct pd_fetch *fetch, int status,
                   struct pd_finished *finished)
{
    fetch->status = status;
    fetch->lag = pd_consumer_lag(consumer);
    fetch->ack_pending = consumer->out.live;
    pd_count(&stream->engine->counters.delivered_records, fetch->notice ? 0 : fetch->records);
    pd_finished_fetch(finished, fetch);
}

uint64_t pd_stream_expel(struct pd_consumer *consumer, pd_fetch_filter wanted, uint64_t argument, int status,
                         struct pd_finished *finished)
{
    uint64_t earliest = UINT64_MAX;
    struct pd_fetch *list = consumer->waiting;
    consumer->waiting = NULL;
    consumer->waiting_end = &consumer->waiting;
    consumer->waiting_count = 0;
    while (list != NULL) {
        struct pd_fetch *fetch = list;
        list = fetch->next;
        if (wanted(fetch, argument)) {
            consumer->active_ns = pd_mono_ns();
            const char *why =
                status == PD_STOPPING ? "the daemon is stopping" : "it was deleted while the fetch waited";
            fetch->status = pd_fail(&fetch->error, status, "consumer %s: %s", consumer->name, why);
            fetch->lag = pd_consumer_lag(consumer);
            fetch->ack_pending = consumer->out.live;
            pd_finished_fetch(finished, fetch);
        } else {
            earliest = pd_min64(earliest, fetch->deadline_ns);
            pd_consumer_park(consumer, fetch);
        }
    }
    return earliest;
}

/* Give the fetch what there is; records is 0 when there is nothing. */
static int attempt(struct pd_stream *stream, struct pd_consumer *consumer, struct pd_fetch *fetch, pd_error *error)
{
    struct pd_selection *selection = &stream->selection;
    bool something = false;
    uint64_t now_ns = pd_mono_ns();
    int rc;
    pd_frames_unpin(&stream->log.frames);
    fetch->records = 0;
    consumer->active_ns = now_ns;
    if (fetch->notice) {
        rc = pd_consumer_peek(consumer, &stream->log, stream->visible_sequence, selection, &something, error);
        fetch->records = something;
        return rc;
    }
    rc = pd_consumer_take(consumer, &stream->log, stream->visible_sequence, selection, fetch, now_ns, error);
    if (consumer->tellings.stalled)
        pd_stream_tell(stream, consumer);
    if (rc != PD_OK || selection->count == 0)
        return rc;
    uint8_t *block = fetch->reserve(fetch, pd_selection_block_length(selection));
    if (block == NULL) /* they come again after ack_wait */
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for a delivery of %zu bytes",
                       pd_selection_block_length(selection));
    pd_selection_write(selection, block);
    fetch->records = (uint32_t)selection->count;
    for (size_t i = 0; consumer->config.ack_policy == PD_ACK_NONE && i < selection->count; i++)
        pd_outstanding_note(&consumer->out, selection->picks[i].sequence);
    pd_stream_erase_done(stream);
    /* The client may have gone before it was known as the owner: then nobody else would free them. */
    if (fetch->alive != NULL && !fetch->alive(fetch))
        pd_consumer_release(consumer, fetch->owner);
    pd_timer_schedule(&stream->engine->timer, stream, consumer->next_deadline);
    return PD_OK;
}

void pd_stream_serve(struct pd_stream *stream, struct pd_finished *finished)
{
    for (size_t i = 0; i < stream->consumer_count; i++) {
        struct pd_consumer *consumer = stream->consumers[i];
        while (consumer->waiting != NULL) {
            struct pd_fetch *fetch = consumer->waiting;
            int rc = attempt(stream, consumer, fetch, &fetch->error);
            if (rc == PD_OK && fetch->records == 0)
                break;
            pd_consumer_unpark(consumer);
            finish(stream, consumer, fetch, rc, finished);
        }
    }
}

struct pd_consumer *pd_stream_consumer(struct pd_stream *stream, const char *name, pd_error *error)
{
    for (size_t i = 0; i < stream->consumer_count; i++)
        if (strcmp(stream->consumers[i]->name, name) == 0)
            return stream->consumers[i];
    pd_fail(error, PD_NO_CONSUMER, "stream %s has no consumer %.64s", stream->name, name);
    return NULL;
}

static int fetch_locked(struct pd_stream *stream, const char *name, struct pd_fetch *fetch,
                        struct pd_finished *finished, pd_error *error)
{
    pd_engine *engine = stream->engine;
    int rc = pd_stream_check_open(stream, error);
    if (rc != PD_OK)
        return rc;
    struct pd_consumer *consumer = pd_stream_consumer(stream, name, error);
    if (consumer == NULL)
        return PD_NO_CONSUMER;
    if ((rc = attempt(stream, consumer, fetch, error)) != PD_OK)
        return rc;
    bool waits = fetch->records == 0 && fetch->deadline_ns > pd_mono_ns() && !atomic_load(&engine->stopping);
    if (!waits) {
        finish(stream, consumer, fetch, PD_OK, finished);
        return PD_OK;
    }
    pd_consumer_park(consumer, fetch);
    pd_timer_schedule(&engine->timer, stream, fetch->deadline_ns);
    /* A pipe that closed meanwhile is released by the timer thread: either that finds the fetch here, or the
     * fetch finds that its owner is gone. */
    if (fetch->alive != NULL && !fetch->alive(fetch))
        pd_stream_expel(consumer, pd_fetch_owned, fetch->owner, PD_STOPPING, finished);
    return PD_OK;
}

int pd_stream_fetch(struct pd_stream *stream, const char *name, struct pd_fetch *fetch, pd_error *error)
{
    struct pd_finished finished;
    if (fetch->max_records == 0)
        return pd_fail(error, PD_INVALID, "a fetch is for at least one record");
    pd_finished_init(&finished);
    fetch->status = PD_OK;
    fetch->stalled = false;
    pthread_mutex_lock(&stream->lock);
    int rc = fetch_locked(stream, name, fetch, &finished, error);
    pd_stream_unlock(stream);
    pd_finished_tell(&finished);
    return rc;
}

int pd_stream_ack(struct pd_stream *stream, const char *name, const struct pd_acks *acks, uint32_t *known,
                  pd_error *error)
{
    struct pd_finished finished;
    *known = 0;
    if (pd_acks_check(acks, error) != PD_OK)
        return PD_INVALID;
    pd_finished_init(&finished);
    pthread_mutex_lock(&stream->lock);
    int rc = pd_stream_check_open(stream, error);
    struct pd_consumer *consumer = rc == PD_OK ? pd_stream_consumer(stream, name, error) : NULL;
    if (rc == PD_OK && consumer == NULL)
        rc = PD_NO_CONSUMER;
    if (rc == PD_OK) {
        consumer->active_ns = pd_mono_ns();
        rc = pd_consumer_ack_all(consumer, acks, consumer->active_ns, known, error);
    }
    if (consumer != NULL) {
        pd_stream_tell(stream, consumer);
        pd_stream_erase_done(stream);
        pd_stream_serve(stream, &finished);
        pd_timer_schedule(&stream->engine->timer, stream, consumer->next_deadline);
    }
    pd_stream_unlock(stream);
    pd_count(&stream->engine->counters.acks, *known);
    pd_finished_tell(&finished);
    return rc;
}

/* Pick what matches after `after`. */
static int look(struct pd_stream *stream, uint64_t after, struct pd_span pattern, pd_error *error)
{
    struct pd_selection *selection = &stream->selection;
    struct pd_reader reader = {0};
    uint64_t at = pd_max64(pd_add_saturating(after, 1), pd_log_first_sequence(&stream->log));
    uint64_t loaded = 0;
    int matching = 0;
    while (selection->count < selection->max_records &&
           (at = pd_log_next(&stream->log, at)) <= stream->visible_sequence) {
        int rc = pd_reader_seek_batch(&reader, &stream->log, at, error);
        if (rc != PD_OK)
            return rc;
        if (loaded != reader.header.base_sequence)
            matching = pd_selection_match(selection, &reader, pattern);
        loaded = reader.header.base_sequence;
        if (matching == 0) {
            at = reader.header.base_sequence + reader.header.record_count;
            continue;
        }
        if (matching < 0)
            return pd_fail(error, PD_LIMIT_REACHED, "no memory to read stream %s", stream->name);
        if ((rc = pd_reader_seek(&reader, &stream->log, at++, error)) != PD_OK)
            return rc;
        if (!selection->matches[reader.record.subject])
            continue;
        if (!pd_selection_fits(selection, reader.record.length))
            return PD_OK;
        if (!pd_selection_add(selection, &reader, 0))
            return pd_fail(error, PD_LIMIT_REACHED, "no memory to read stream %s", stream->name);
    }
    return PD_OK;
}

int pd_stream_look(struct pd_stream *stream, uint64_t after, const char *pattern, uint32_t max_records,
                   uint32_t max_bytes, uint8_t **block, size_t *length, uint32_t *records, pd_error *error)
{
    struct pd_span span = {(const uint8_t *)pattern, (uint32_t)strlen(pattern)};
    struct pd_selection *selection = &stream->selection;
    const char *wrong = pd_subject_error(pattern, strlen(pattern), true);
    *block = NULL;
    *length = 0;
    *records = 0;
    if (wrong != NULL)
        return pd_fail(error, PD_INVALID, "the pattern '%.255s' %s", pattern, wrong);
    pthread_mutex_lock(&stream->lock);
    int rc = pd_stream_check_open(stream, error);
    pd_selection_begin(selection, max_records, max_bytes);
    if (rc == PD_OK)
        rc = look(stream, after, span, error);
    if (rc == PD_OK && selection->count > 0) {
        *length = pd_selection_block_length(selection);
        *block = malloc(*length);
        if (*block == NULL)
            rc = pd_fail(error, PD_LIMIT_REACHED, "no memory for %zu bytes", *length);
        else
            pd_selection_write(selection, *block);
        *records = (uint32_t)selection->count;
    }
    pd_stream_unlock(stream);
    return rc;
}
