/* Appending to a stream: which records are new, the log, the consumers' lag, and who is told when. */
#include "engine.h"
#include "stream_internal.h"

#include <stdlib.h>

/* Kept for the next append; a batch larger than this is given back. */
#define REBUILT_KEPT ((size_t)1 << 20)

/* So much is synced although nobody asked. Left to the end of a segment, the file system's journal has it all
 * to write at once, and whoever makes the next file waits for it (measured: half the throughput). */
#define SYNC_UNASKED ((uint64_t)8 << 20)

static int prepare_scratch(struct pd_stream *stream, const struct pd_batch_view *batch, pd_error *error)
{
    size_t subjects = batch->header.subject_count;
    if (!pd_reserve((void **)&stream->table, &stream->table_capacity, subjects, sizeof *stream->table) ||
        !pd_reserve((void **)&stream->counts, &stream->counts_capacity, subjects, sizeof *stream->counts))
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for a batch with %zu subjects", subjects);
    pd_batch_subjects(batch->data, &batch->header, stream->table);
    memset(stream->counts, 0, subjects * sizeof *stream->counts);
    return PD_OK;
}

static bool note_duplicate(struct pd_pending *pending, uint32_t index)
{
    if (pending->bitmap == NULL)
        pending->bitmap = calloc(1, (pending->record_count + 7) / 8);
    if (pending->bitmap == NULL)
        return false;
    pd_bit_set(pending->bitmap, index);
    pending->duplicates++;
    return true;
}

/* Count the new records of each subject and mark those that were there already. *added: hashes that were
 * remembered, to be taken back when the batch is not stored. */
static int sift(struct pd_stream *stream, const struct pd_batch_view *batch, uint64_t now_ns,
                struct pd_pending *pending, size_t *added, pd_error *error)
{
    const uint8_t *at = batch->data + batch->header.records_offset;
    const struct pd_hash_key *key = &stream->engine->hash_key;
    for (uint32_t i = 0; i < batch->header.record_count; i++) {
        struct pd_record record;
        memcpy(&record, at, sizeof record);
        int fresh = 1;
        if (record.id_length > 0 && stream->dedup.window_ns != 0) {
            struct pd_hash hash = pd_hash_pair(key, stream->table[record.subject], pd_record_id(at, &record));
            fresh = pd_dedup_add(&stream->dedup, hash, now_ns);
            *added += fresh == 1;
        }
        if (fresh < 0 || (fresh == 0 && !note_duplicate(pending, i)))
            return pd_fail(error, PD_LIMIT_REACHED, "no memory to look for duplicates");
        stream->counts[record.subject] += fresh == 1;
        at += record.length;
    }
    return PD_OK;
}

static bool has_ids(const struct pd_batch_view *batch)
{
    const uint8_t *at = batch->data + batch->header.records_offset;
    unsigned any = 0;
    for (uint32_t i = 0; i < batch->header.record_count; i++) {
        struct pd_record record;
        memcpy(&record, at, sizeof record);
        any |= record.id_length;
        at += record.length;
    }
    return any != 0;
}

static int store(struct pd_stream *stream, const struct pd_batch_view *batch, uint64_t now_ns,
                 struct pd_pending *pending, pd_error *error)
{
    struct pd_batch_header header = batch->header;
    const uint8_t *data = batch->data;
    if (pending->duplicates > 0) {
        if (!pd_reserve((void **)&stream->rebuilt, &stream->rebuilt_capacity, header.length, 1))
            return pd_fail(error, PD_LIMIT_REACHED, "no memory for a batch without its duplicates");
        pd_batch_rebuild(batch->data, &batch->header, pending->bitmap, stream->rebuilt, &header);
        data = stream->rebuilt;
    }
    int rc = pd_stream_check_room(stream, &header, error);
    if (rc == PD_OK)
        rc = pd_stream_index_check_room(stream, &header, error);
    if (rc == PD_OK)
        rc = pd_log_append(&stream->log, &header, data + PD_BATCH_HEADER, now_ns, error);
    if (rc != PD_OK)
        return rc;
    pending->appended = header.record_count;
    pending->first_sequence = header.base_sequence;
    for (size_t i = 0; i < stream->consumer_count; i++)
        pd_consumer_appended(stream->consumers[i], &stream->log, &header, stream->table, stream->counts,
                             &stream->selection);
    pd_stream_index_appended(stream, &header, data);
    pd_stream_erase_unwanted(stream, &header, data);
    struct pd_counters *counters = &stream->engine->counters;
    pd_count(&counters->appended_records, header.record_count);
    pd_count(&counters->appended_bytes, header.length);
    pd_rate_add(&stream->rate, now_ns, header.record_count, header.length);
    return PD_OK;
}

/* Answer now, or when the disk has it. */
static void promise(struct pd_stream *stream, enum pd_durability durability, struct pd_pending *pending,
                    struct pd_finished *finished)
{
    struct pd_log *log = &stream->log;
    bool waits = durability == PD_DURABLE_FSYNC && log->last_sequence > log->durable_sequence;
    pending->wait_sequence = log->last_sequence;
    pending->hidden_from = pending->appended > 0 ? pending->first_sequence : log->last_sequence + 1;
    if (waits) {
        pending->next = NULL;
        *stream->pending_end = pending;
        stream->pending_end = &pending->next;
    } else {
        pd_finished_append(finished, pending);
    }
    if (stream->pending == NULL && pending->appended > 0) {
        pd_stream_reveal(stream, log->last_sequence);
        pd_stream_serve(stream, finished);
    }
    /* A segment that is full is synced even when nobody waits for it: recovery trusts sealed ones. */
    const struct pd_segment *active = log->segments[log->count - 1];
    bool sealed_unsynced = log->count > 1 && log->segments[log->count - 2]->fd >= 0;
    if (waits || sealed_unsynced || active->size - active->synced > SYNC_UNASKED)
        pd_commit_mark(&stream->engine->commit, stream);
}

static int append_locked(struct pd_stream *stream, const struct pd_batch_view *batch, enum pd_durability durability,
                         const struct pd_expectation *expect, struct pd_pending *pending, struct pd_finished *finished,
                         pd_error *error)
{
    struct pd_log *log = &stream->log;
    uint64_t now_ns = pd_max64(pd_wall_ns(), log->newest_time_ns);
    size_t added = 0;
    size_t segments = log->count;
    pd_dedup_trim(&stream->dedup, now_ns);
    int rc = log->failed ? pd_fail(error, PD_IO_ERROR,
                                   "the log of stream %s failed to reach the disk; restart the "
                                   "daemon to open it again",
                                   stream->name)
                         : prepare_scratch(stream, batch, error);
    if (rc == PD_OK)
        rc = pd_stream_check_sizes(stream, batch, error);
    if (rc == PD_OK)
        rc = sift(stream, batch, now_ns, pending, &added, error);
    bool fresh = pending->duplicates < batch->header.record_count;
    if (rc == PD_OK && fresh && expect->last != PD_NO_EXPECTATION && expect->last != log->last_sequence)
        rc = pd_fail(error, PD_SEQUENCE_MISMATCH, "the last sequence of stream %s is %llu, not %llu", stream->name,
                     (unsigned long long)log->last_sequence, (unsigned long long)expect->last);
    if (rc == PD_OK && fresh && expect->last_on_subject != PD_NO_EXPECTATION)
        rc = pd_stream_index_expect(stream, batch, expect->last_on_subject, error);
    if (rc == PD_OK && fresh)
        rc = store(stream, batch, now_ns, pending, error);
    if (stream->rebuilt_capacity > REBUILT_KEPT) {
        free(stream->rebuilt);
        stream->rebuilt = NULL;
        stream->rebuilt_capacity = 0;
    }
    if (rc != PD_OK) {
        pd_dedup_undo(&stream->dedup, added);
        return rc;
    }
    if (!fresh)
        pending->first_sequence = log->last_sequence;
    pd_count(&stream->engine->counters.duplicates, pending->duplicates);
    pd_stream_trim(stream);
    promise(stream, durability, pending, finished);
    bool over = log->count > 1 && log->options.max_bytes != 0 && log->bytes > log->options.max_bytes;
    if (over || log->hollow || log->count != segments)
        pd_timer_schedule(&stream->engine->timer, stream, 0); /* retention has something to look at */
    return PD_OK;
}

/* Once when the disk becomes full, and not at every batch that it refuses. */
static void note_full(struct pd_stream *stream, int rc)
{
    bool was = stream->full;
    stream->full = rc == PD_STORAGE_FULL || (was && rc != PD_OK);
    uint64_t now_ns = stream->full && !was ? pd_mono_ns() : 0;
    if (now_ns == 0 || (stream->full_told_ns != 0 && now_ns < stream->full_told_ns + PD_ADVISORY_INTERVAL_NS))
        return;
    stream->full_told_ns = now_ns;
    pd_advise(&stream->engine->advisories, PD_ADVISE_STORAGE_FULL, stream->name, "",
              "the disk is full; what is published is refused until there is room");
}

int pd_stream_append(struct pd_stream *stream, const struct pd_batch_view *batch, enum pd_durability durability,
                     const struct pd_expectation *expect, struct pd_pending *pending, pd_error *error)
{
    struct pd_finished finished;
    pd_finished_init(&finished);
    pending->record_count = batch->header.record_count;
    pending->appended = pending->duplicates = 0;
    pending->bitmap = NULL;
    pending->status = PD_OK;
    memcpy(pending->stream, stream->name, sizeof pending->stream);
    pthread_mutex_lock(&stream->lock);
    int rc = pd_stream_check_open(stream, error);
    if (rc == PD_OK && stream->config.validate != 0 && !batch->checked)
        rc = pd_fail(error, PD_UNCHECKED, "stream %s validates, and nobody has looked at these records", stream->name);
    bool by_subject = stream->config.max_records_per_subject != 0 && stream->config.discard_new != 0;
    if (rc == PD_OK && (by_subject || expect->last_on_subject != PD_NO_EXPECTATION))
        rc = pd_stream_index_require(stream, error);
    if (rc == PD_OK && stream->unknown_segments > 0 && has_ids(batch))
        rc = pd_stream_dedup_require(stream, error);
    if (rc == PD_OK)
        rc = append_locked(stream, batch, durability, expect, pending, &finished, error);
    if (rc == PD_STORAGE_FULL || stream->full)
        note_full(stream, rc);
    pd_stream_unlock(stream);
    if (rc != PD_UNCHECKED) /* which is no refusal yet */
        pd_count(rc == PD_OK ? &stream->engine->counters.appends : &stream->engine->counters.refused, 1);
    if (rc != PD_OK) {
        free(pending->bitmap);
        pending->bitmap = NULL;
    }
    pd_finished_tell(&finished);
    return rc;
}
