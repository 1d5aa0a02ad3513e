/* The records of each subject of a stream: max_records_per_subject, and what the newest on a subject is.
 *
 * The index is in memory only and made by reading the log: a stream with max_records_per_subject begins when it is
 * opened, any other when somebody first asks for the newest record of a subject. Reading goes in steps of about a
 * megabyte, the lock given up in between. Opening waits BUILD_AT_OPEN for it and no longer, so that a large log does
 * not keep the daemon from starting: the timer thread goes on, and until it has caught up with the end a subject may
 * have more records than it should. Whoever must know (discard new, an expectation) helps to build, and waits.
 *
 * While it is built, appending leaves it alone: the reader comes by. Each record that is read, or appended later, is
 * put at the end of its subject, and the oldest of a subject that has too many is erased. So a limit that became
 * lower, or an erasure that a crash swallowed, needs nothing of its own.
 *
 * Without max_records_per_subject a subject has one sequence. Should that one have been erased, the one before it is
 * looked for backwards in the log.
 */
#include "engine.h"
#include "erasure.h"
#include "start.h"
#include "stream_internal.h"

#define STEP_BYTES    ((uint64_t)1 << 20)
#define BUILD_AT_OPEN ((uint64_t)500000000)

static bool keeps(const void *log, uint64_t sequence)
{
    return pd_log_keeps(log, sequence);
}

void pd_stream_index_reset(struct pd_stream *stream)
{
    pd_subject_index_fini(&stream->index);
    stream->index_at = stream->config.max_records_per_subject != 0 ? 1 : 0;
    stream->index_ready = false;
}

/* Its subjects are too many, or there is no memory: begin anew when somebody asks. */
static int give_up(struct pd_stream *stream, pd_error *error)
{
    size_t subjects = stream->index.count;
    pd_subject_index_fini(&stream->index);
    stream->index_at = 0;
    stream->index_ready = false;
    return pd_fail(error, PD_STREAM_FULL, "stream %s has %zu subjects: there is no room to know the records of each",
                   stream->name, subjects);
}

/* Note the record, and erase the oldest of its subject if that is one too many. */
static int note(struct pd_stream *stream, struct pd_subject_entry *entry, struct pd_span subject, uint64_t sequence)
{
    struct pd_log *log = &stream->log;
    uint64_t limit = stream->config.max_records_per_subject;
    if (entry == NULL)
        return PD_LIMIT_REACHED;
    if (limit == 0)
        entry->at = entry->count = 0;
    else if (pd_subject_entry_left(entry) >= limit)
        pd_subject_entry_settle(entry, keeps, log);
    while (limit != 0 && pd_subject_entry_left(entry) >= limit && stream->config.discard_new == 0)
        pd_stream_erase_one(stream, pd_subject_entry_sequences(entry)[entry->at++], subject, NULL);
    return pd_subject_entry_push(entry, sequence) ? PD_OK : PD_LIMIT_REACHED;
}

/* Those records of the reader's batch that are kept, from index_at on. */
static int index_batch(struct pd_stream *stream, struct pd_reader *reader, pd_error *error)
{
    struct pd_selection *selection = &stream->selection;
    uint64_t end = reader->header.base_sequence + reader->header.record_count;
    if (pd_selection_match(selection, reader, (struct pd_span){(const uint8_t *)">", 1}) < 0)
        return PD_LIMIT_REACHED;
    while (stream->index_at < end) {
        int rc = pd_reader_seek(reader, &stream->log, stream->index_at, error);
        if (rc != PD_OK)
            return rc;
        struct pd_span subject = selection->table[reader->record.subject];
        rc = note(stream, pd_subject_index_add(&stream->index, subject), subject, stream->index_at);
        if (rc != PD_OK)
            return rc;
        stream->index_at = pd_log_next(&stream->log, stream->index_at + 1);
    }
    return PD_OK;
}

/* Go on building. */
static int build_step(struct pd_stream *stream, pd_error *error)
{
    struct pd_log *log = &stream->log;
    struct pd_reader reader = {0};
    int rc = stream->index.sweep_at == 0 ? pd_subject_index_init(&stream->index, error) : PD_OK;
    if (stream->index_at == 0)
        stream->index_at = 1;
    pd_selection_begin(&stream->selection, 1, 0);
    for (uint64_t looked = 0; rc == PD_OK && looked < STEP_BYTES; looked += reader.header.length) {
        stream->index_at = pd_log_next(log, stream->index_at);
        stream->index_ready = stream->index_at > log->last_sequence;
        if (stream->index_ready)
            break;
        rc = pd_reader_seek_batch(&reader, log, stream->index_at, error);
        if (rc == PD_OK)
            rc = index_batch(stream, &reader, error);
        pd_subject_index_sweep(&stream->index, keeps, log);
    }
    pd_log_erase_commit(log, NULL);
    return rc == PD_LIMIT_REACHED ? give_up(stream, error) : rc;
}

bool pd_stream_index_build(struct pd_stream *stream)
{
    if (stream->index_ready || stream->index_at == 0)
        return false;
    return build_step(stream, NULL) == PD_OK && !stream->index_ready;
}

void pd_stream_index_open(struct pd_stream *stream)
{
    uint64_t until = pd_mono_ns() + BUILD_AT_OPEN;
    while (pd_stream_index_build(stream) && pd_mono_ns() < until)
        continue;
}

int pd_stream_index_require(struct pd_stream *stream, pd_error *error)
{
    int rc = pd_stream_check_open(stream, error);
    while (rc == PD_OK && !stream->index_ready) {
        if ((rc = build_step(stream, error)) != PD_OK)
            break;
        pd_stream_unlock(stream);
        pthread_mutex_lock(&stream->lock);
        rc = pd_stream_check_open(stream, error);
    }
    return rc;
}

/* The newest that is kept on the subject; 0: none is. */
static int newest(struct pd_stream *stream, struct pd_span subject, uint64_t *sequence, pd_error *error)
{
    struct pd_subject_entry *entry = pd_subject_index_find(&stream->index, subject);
    *sequence = 0;
    if (entry == NULL || entry->count == 0)
        return PD_OK;
    uint64_t last = pd_subject_entry_sequences(entry)[entry->count - 1];
    pd_subject_entry_settle(entry, keeps, &stream->log);
    if (pd_subject_entry_left(entry) > 0)
        *sequence = pd_subject_entry_sequences(entry)[entry->count - 1];
    int rc = PD_OK;
    bool hidden = *sequence == 0 && stream->config.max_records_per_subject == 0;
    pd_selection_begin(&stream->selection, 1, 0);
    for (uint64_t to = last; hidden && rc == PD_OK && *sequence == 0 && to >= stream->log.first;)
        rc = pd_start_last_step(&stream->log, subject, &stream->selection, &to, sequence, error);
    if (rc == PD_OK && *sequence != 0 && hidden)
        pd_subject_entry_push(entry, *sequence);
    return rc;
}

int pd_stream_index_expect(struct pd_stream *stream, const struct pd_batch_view *batch, uint64_t expected,
                           pd_error *error)
{
    struct pd_record record;
    uint64_t sequence;
    memcpy(&record, batch->data + batch->header.records_offset, sizeof record);
    struct pd_span subject = stream->table[record.subject];
    int rc = newest(stream, subject, &sequence, error);
    if (rc == PD_OK && sequence != expected)
        rc = pd_fail(error, PD_SEQUENCE_MISMATCH, "the last sequence of stream %s on %.*s is %llu, not %llu",
                     stream->name, (int)subject.length, (const char *)subject.data, (unsigned long long)sequence,
                     (unsigned long long)expected);
    return rc;
}

int pd_stream_index_check_room(struct pd_stream *stream, const struct pd_batch_header *header, pd_error *error)
{
    struct pd_subject_index *index = &stream->index;
    uint64_t limit = stream->config.max_records_per_subject;
    if (limit == 0)
        return PD_OK;
    if (!stream->index_ready && stream->index_at == 0) /* it was given up */
        return give_up(stream, error);
    if (!stream->index_ready)
        return PD_OK;
    pd_subject_index_sweep(index, keeps, &stream->log);
    if (index->count + header->subject_count > PD_INDEX_SUBJECTS_MAX)
        return pd_fail(error, PD_STREAM_FULL, "stream %s has %zu subjects and takes no more than %u", stream->name,
                       index->count, PD_INDEX_SUBJECTS_MAX);
    for (uint32_t i = 0; stream->config.discard_new != 0 && i < header->subject_count; i++) {
        struct pd_subject_entry *entry = pd_subject_index_find(index, stream->table[i]);
        if (entry != NULL && pd_subject_entry_left(entry) + stream->counts[i] > limit)
            pd_subject_entry_settle(entry, keeps, &stream->log);
        uint64_t there = entry != NULL ? pd_subject_entry_left(entry) : 0;
        if (stream->counts[i] > 0 && there + stream->counts[i] > limit)
            return pd_fail(error, PD_STREAM_FULL, "stream %s has %llu records on %.*s and takes no more than %llu",
                           stream->name, (unsigned long long)there, (int)stream->table[i].length,
                           (const char *)stream->table[i].data, (unsigned long long)limit);
    }
    return PD_OK;
}

void pd_stream_index_appended(struct pd_stream *stream, const struct pd_batch_header *header, const uint8_t *data)
{
    const uint8_t *at = data + header->records_offset;
    int rc = PD_OK;
    if (!stream->index_ready)
        return;
    for (uint32_t i = 0; rc == PD_OK && i < header->record_count; i++) {
        struct pd_record record;
        memcpy(&record, at, sizeof record);
        struct pd_span subject = stream->table[record.subject];
        rc = note(stream, pd_subject_index_add(&stream->index, subject), subject, header->base_sequence + i);
        at += record.length;
    }
    if (rc != PD_OK)
        give_up(stream, NULL);
    stream->index_at = stream->log.last_sequence + 1;
    pd_log_erase_commit(&stream->log, NULL);
}
