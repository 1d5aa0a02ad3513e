/* Retention by consumers: which records of an interest stream or a work queue have served, and go.
 *
 *     interest     a record goes when every consumer whose filter matches it is done with it; one that matches none
 *                  when it is appended goes at once
 *     work queue   a record goes when its one consumer is done with it (filters do not overlap); one that no
 *                  consumer matches waits
 *
 * Done is what a consumer has behind it (below its cursor) and neither out nor ahead: acknowledged, given up, passed
 * over. Consumers note what stops being out (struct pd_outstanding); after each thing that was done to them the notes
 * are looked through here, and what nobody needs any more is erased. That is exact as long as nothing comes between
 * the consumer's journal and the log's. For what does (a crash), and for what touches many records at once (a
 * consumer that is deleted or moved), there is the sweep: a walk over what is kept, some batches for each turn of
 * the timer thread, that asks of each record who still wants it. It is safe at any time.
 *
 * Nothing of an interest stream goes before all its consumers are known: opening a stream opens them one by one.
 */
#include "engine.h"
#include "erasure.h"
#include "stream_internal.h"
#include "subject.h"

#define SWEEP_BATCHES 64 /* that are looked at before others have their turn */

static bool matches(const struct pd_consumer *consumer, struct pd_span subject)
{
    return pd_subject_matches(consumer->filter, consumer->filter_length, (const char *)subject.data, subject.length);
}

static bool may_erase(const struct pd_stream *stream)
{
    return stream->config.retention == PD_RETENTION_WORK_QUEUE ||
           (stream->config.retention == PD_RETENTION_INTEREST && stream->consumers_known);
}

/* Whether somebody still needs the record. */
static bool wanted(const struct pd_stream *stream, struct pd_span subject, uint64_t sequence)
{
    bool matched = false;
    for (size_t i = 0; i < stream->consumer_count; i++) {
        if (!matches(stream->consumers[i], subject))
            continue;
        if (!pd_consumer_is_done(stream->consumers[i], sequence))
            return true;
        matched = true;
    }
    return stream->config.retention == PD_RETENTION_WORK_QUEUE && !matched;
}

/* Whether all records of the subject from `base` on are needed, whatever became of single ones. */
static bool all_wanted(const struct pd_stream *stream, struct pd_span subject, uint64_t base)
{
    bool matched = false;
    for (size_t i = 0; i < stream->consumer_count; i++) {
        if (!matches(stream->consumers[i], subject))
            continue;
        if (stream->consumers[i]->next_sequence <= base)
            return true;
        matched = true;
    }
    return stream->config.retention == PD_RETENTION_WORK_QUEUE && !matched;
}

int pd_stream_check_work_queue(const struct pd_stream *stream, const char *name, const char *filter, pd_error *error)
{
    if (stream->config.retention != PD_RETENTION_WORK_QUEUE)
        return PD_OK;
    for (size_t i = 0; i < stream->consumer_count; i++) {
        struct pd_consumer *other = stream->consumers[i];
        if (strcmp(other->name, name) != 0 &&
            pd_patterns_overlap(filter, strlen(filter), other->filter, other->filter_length))
            return pd_fail(error, PD_EXISTS,
                           "stream %s is a work queue, and the filter %.255s overlaps %s of its consumer %s",
                           stream->name, filter, other->filter, other->name);
    }
    return PD_OK;
}

void pd_stream_watch(struct pd_stream *stream)
{
    for (size_t i = 0; i < stream->consumer_count; i++)
        stream->consumers[i]->out.notes = stream->config.retention != PD_RETENTION_LIMITS;
}

void pd_stream_begin_sweep(struct pd_stream *stream)
{
    if (!may_erase(stream))
        return;
    stream->sweep_at = 1;
    pd_timer_schedule(&stream->engine->timer, stream, 0);
}

/* Whether others than `consumer`, which is done with it, need the record. */
static bool others_want(struct pd_stream *stream, const struct pd_consumer *consumer, struct pd_reader *reader,
                        uint64_t sequence)
{
    bool read = false;
    for (size_t i = 0; i < stream->consumer_count; i++) {
        struct pd_consumer *other = stream->consumers[i];
        if (other == consumer || pd_consumer_is_done(other, sequence))
            continue;
        if (other->filter_length == 1 && other->filter[0] == '>')
            return true;
        if (!read && (pd_reader_seek(reader, &stream->log, sequence, NULL) != PD_OK ||
                      pd_selection_match(&stream->selection, reader, (struct pd_span){(const uint8_t *)">", 1}) < 0))
            return true; /* not known: it stays, and the next sweep looks again */
        read = true;
        if (matches(other, stream->selection.table[reader->record.subject]))
            return true;
    }
    return false;
}

static void erase_done(struct pd_stream *stream, struct pd_consumer *consumer)
{
    struct pd_outstanding *out = &consumer->out;
    struct pd_reader reader = {0};
    bool alone = stream->config.retention == PD_RETENTION_WORK_QUEUE || stream->consumer_count == 1;
    for (size_t i = 0; i < out->done_count; i++) {
        uint64_t sequence = out->done[i];
        if (pd_log_keeps(&stream->log, sequence) && pd_consumer_is_done(consumer, sequence) &&
            (alone || !others_want(stream, consumer, &reader, sequence)))
            pd_log_erase(&stream->log, sequence, sequence, NULL, NULL);
    }
}

void pd_stream_erase_done(struct pd_stream *stream)
{
    bool any = false;
    if (stream->config.retention == PD_RETENTION_LIMITS)
        return;
    for (size_t i = 0; i < stream->consumer_count; i++) {
        struct pd_outstanding *out = &stream->consumers[i]->out;
        if (out->done_count > 0 && may_erase(stream)) {
            erase_done(stream, stream->consumers[i]);
            any = true;
        }
        out->done_count = 0;
        if (out->done_lost)
            pd_stream_begin_sweep(stream);
        out->done_lost = false;
    }
    if (any)
        pd_log_erase_commit(&stream->log, NULL);
    if (stream->log.hollow)
        pd_timer_schedule(&stream->engine->timer, stream, 0);
}

void pd_stream_erase_unwanted(struct pd_stream *stream, const struct pd_batch_header *header, const uint8_t *data)
{
    uint64_t base = header->base_sequence;
    const uint8_t *at = data + header->records_offset;
    bool none = true;
    if (stream->config.retention != PD_RETENTION_INTEREST || !stream->consumers_known)
        return;
    for (uint32_t i = 0; i < header->subject_count; i++) {
        stream->counts[i] = all_wanted(stream, stream->table[i], base); /* as a flag; the counts have served */
        none = none && stream->counts[i] != 0;
    }
    for (uint32_t i = 0; !none && i < header->record_count; i++) {
        struct pd_record record;
        memcpy(&record, at, sizeof record);
        if (stream->counts[record.subject] == 0 && !wanted(stream, stream->table[record.subject], base + i))
            pd_log_erase(&stream->log, base + i, base + i, NULL, NULL);
        at += record.length;
    }
    if (!none)
        pd_log_erase_commit(&stream->log, NULL);
}

/* Those of the reader's batch, from sweep_at on. */
static int sweep_batch(struct pd_stream *stream, struct pd_reader *reader)
{
    struct pd_selection *selection = &stream->selection;
    uint64_t base = reader->header.base_sequence;
    uint64_t end = base + reader->header.record_count;
    bool all = true;
    if (pd_selection_match(selection, reader, (struct pd_span){(const uint8_t *)">", 1}) < 0)
        return PD_LIMIT_REACHED;
    for (uint32_t i = 0; i < reader->header.subject_count; i++) {
        selection->matches[i] = all_wanted(stream, selection->table[i], base);
        all = all && selection->matches[i] != 0;
    }
    if (all)
        stream->sweep_at = end;
    while (stream->sweep_at < end) {
        uint64_t at = stream->sweep_at;
        int rc = pd_reader_seek(reader, &stream->log, at, NULL);
        if (rc != PD_OK)
            return rc;
        if (!selection->matches[reader->record.subject] &&
            !wanted(stream, selection->table[reader->record.subject], at))
            pd_log_erase(&stream->log, at, at, NULL, NULL);
        stream->sweep_at = pd_log_next(&stream->log, at + 1);
    }
    return PD_OK;
}

bool pd_stream_sweep(struct pd_stream *stream)
{
    struct pd_reader reader = {0};
    int rc = PD_OK;
    if (stream->sweep_at == 0 || !may_erase(stream))
        return false;
    pd_selection_begin(&stream->selection, 1, 0);
    for (int i = 0; rc == PD_OK && i < SWEEP_BATCHES; i++) {
        stream->sweep_at = pd_log_next(&stream->log, stream->sweep_at);
        if (stream->sweep_at > stream->log.last_sequence)
            break;
        rc = pd_reader_seek_batch(&reader, &stream->log, stream->sweep_at, NULL);
        if (rc == PD_OK)
            rc = sweep_batch(stream, &reader);
    }
    pd_log_erase_commit(&stream->log, NULL);
    if (rc != PD_OK || stream->sweep_at > stream->log.last_sequence) /* what is damaged stays */
        stream->sweep_at = 0;
    return stream->sweep_at != 0;
}

int pd_stream_know_consumers(struct pd_stream *stream, pd_error *error)
{
    pthread_mutex_lock(&stream->lock);
    int rc = pd_stream_check_open(stream, error);
    stream->consumers_known = true;
    if (rc == PD_OK)
        pd_stream_begin_sweep(stream);
    pd_stream_unlock(stream);
    return rc;
}
