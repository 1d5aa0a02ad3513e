/* Reading back what a stream stored lately, so that a duplicate is one across restarts too.
 *
 * Segments are read from the newest to the oldest until the window or the limit is full: each one's ids in
 * order, then added as older than everything known. Only headers and ids are touched; the checksums of sealed
 * segments are not computed here (the window may span much more than fits into memory), but every length is
 * checked before it is followed.
 *
 * Opening waits LOAD_AT_OPEN for it and no longer, so that a large log does not keep the daemon from starting: the
 * timer thread goes on, about a megabyte at a time. A batch with ids that comes meanwhile helps to read, and waits; one
 * without needs not know. No segment is dropped before its ids are known.
 */
#include "engine.h"
#include "stream_internal.h"

#include <stdlib.h>

#define LOAD_AT_OPEN ((uint64_t)500000000)
#define STEP_BYTES   ((uint64_t)1 << 20)

/* What was found of the segment that is read. */
struct pd_found {
    uint64_t offset;         /* where to go on */
    uint64_t oldest_time_ns; /* of its first batch */
    struct pd_dedup_entry *entries;
    size_t count;
    size_t capacity;
    struct pd_span *table;
    size_t table_capacity;
};

static int load_batch(struct pd_stream *stream, struct pd_segment *segment, uint64_t offset,
                      const struct pd_batch_header *header, struct pd_found *found, pd_error *error)
{
    int rc = pd_segment_load(segment, offset, header->length, error);
    if (rc != PD_OK)
        return rc;
    const uint8_t *batch = segment->map + offset;
    if (!pd_reserve((void **)&found->table, &found->table_capacity, header->subject_count, sizeof *found->table))
        return pd_fail(error, PD_LIMIT_REACHED, "no memory to read stream %s back", stream->name);
    pd_batch_subjects(batch, header, found->table);
    size_t at = header->records_offset;
    for (uint32_t i = 0; i < header->record_count; i++) {
        struct pd_record record;
        if (!pd_record_load(batch + at, header->length - at, &record) || record.subject >= header->subject_count)
            return pd_segment_corrupted(segment, offset, error);
        struct pd_span id = {batch + at + PD_RECORD_HEADER, record.id_length};
        at += record.length;
        if (id.length == 0)
            continue;
        if (!pd_reserve((void **)&found->entries, &found->capacity, found->count + 1, sizeof *found->entries))
            return pd_fail(error, PD_LIMIT_REACHED, "no memory to read stream %s back", stream->name);
        found->entries[found->count++] = (struct pd_dedup_entry){
            pd_hash_pair(&stream->engine->hash_key, found->table[record.subject], id), header->append_time_ns};
    }
    return PD_OK;
}

/* The ids of a segment that are not older than `since`: a step; *whole: there are no more of them. */
static int load_segment(struct pd_stream *stream, struct pd_segment *segment, uint64_t since, struct pd_found *found,
                        bool *whole, pd_error *error)
{
    uint64_t until = found->offset + STEP_BYTES;
    bool none = segment->last < segment->base || (segment->packed != NULL && segment->packed->header.id_count == 0);
    int rc = PD_OK;
    while (rc == PD_OK && !none && found->offset < segment->size && found->offset < until) {
        struct pd_batch_header header;
        rc = pd_segment_batch(segment, found->offset, false, &header, error);
        if (rc != PD_OK)
            return rc;
        if (found->offset == 0)
            found->oldest_time_ns = header.append_time_ns;
        if (header.append_time_ns >= since)
            rc = load_batch(stream, segment, found->offset, &header, found, error);
        found->offset += header.length;
    }
    *whole = none || found->offset >= segment->size;
    return rc;
}

/* The segment was read: put what was found before all that is known. */
static int take_found(struct pd_stream *stream, uint64_t since, pd_error *error)
{
    struct pd_dedup *dedup = &stream->dedup;
    struct pd_found *found = stream->found;
    for (size_t i = found->count; i > 0; i--)
        if (pd_dedup_add_oldest(dedup, found->entries[i - 1].hash, found->entries[i - 1].time_ns) < 0)
            return pd_fail(error, PD_LIMIT_REACHED, "no memory to read stream %s back", stream->name);
    bool in_window = found->oldest_time_ns == 0 || found->oldest_time_ns >= since;
    stream->unknown_segments = in_window && dedup->count < dedup->limit ? stream->unknown_segments - 1 : 0;
    found->offset = found->oldest_time_ns = found->count = 0;
    return PD_OK;
}

void pd_stream_dedup_fini(struct pd_stream *stream)
{
    if (stream->found != NULL) {
        free(stream->found->entries);
        free(stream->found->table);
    }
    free(stream->found);
    stream->found = NULL;
}

static int load_step(struct pd_stream *stream, pd_error *error)
{
    uint64_t now_ns = pd_max64(pd_wall_ns(), stream->log.newest_time_ns);
    uint64_t window_ns = stream->dedup.window_ns;
    uint64_t since = now_ns > window_ns ? now_ns - window_ns : 0;
    bool whole = false;
    if (stream->found == NULL && (stream->found = calloc(1, sizeof *stream->found)) == NULL)
        return pd_fail(error, PD_LIMIT_REACHED, "no memory to read stream %s back", stream->name);
    struct pd_segment *segment = stream->log.segments[stream->unknown_segments - 1];
    int rc = load_segment(stream, segment, since, stream->found, &whole, error);
    if (rc == PD_OK && whole)
        rc = take_found(stream, since, error);
    if (rc != PD_OK || stream->unknown_segments == 0) {
        pd_dedup_trim(&stream->dedup, now_ns);
        pd_stream_dedup_fini(stream);
    }
    return rc;
}

int pd_stream_dedup_open(struct pd_stream *stream, pd_error *error)
{
    uint64_t until = pd_mono_ns() + LOAD_AT_OPEN;
    int rc = PD_OK;
    stream->unknown_segments = stream->dedup.window_ns != 0 ? stream->log.count : 0;
    while (rc == PD_OK && stream->unknown_segments > 0 && pd_mono_ns() < until)
        rc = load_step(stream, error);
    return rc;
}

bool pd_stream_dedup_build(struct pd_stream *stream)
{
    if (stream->unknown_segments > 0 && !stream->unknowable)
        stream->unknowable = load_step(stream, NULL) != PD_OK;
    return stream->unknown_segments > 0 && !stream->unknowable;
}

int pd_stream_dedup_require(struct pd_stream *stream, pd_error *error)
{
    int rc = pd_stream_check_open(stream, error);
    while (rc == PD_OK && stream->unknown_segments > 0) {
        if ((rc = load_step(stream, error)) != PD_OK)
            break;
        pthread_mutex_unlock(&stream->lock);
        pthread_mutex_lock(&stream->lock);
        rc = pd_stream_check_open(stream, error);
    }
    return rc;
}
