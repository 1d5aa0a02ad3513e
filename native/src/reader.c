/* A place in a log from which records are read one after the other.
 *
 * Going on is cheap: the next record of the batch, or the batch behind it, is a hop away. Anything else goes
 * through the segment's index. A batch's checksum is computed once for each time that it is entered, sealed
 * or fresh: what is delivered is what was appended, or an error.
 */
#include "reader.h"

static bool in_batch(const struct pd_reader *reader, uint64_t sequence)
{
    return reader->placed && sequence >= reader->header.base_sequence &&
           sequence - reader->header.base_sequence < reader->header.record_count;
}

/* Begin at the batch that begins at offset. */
static int enter(struct pd_reader *reader, struct pd_segment *segment, uint64_t offset, uint64_t sequence,
                 pd_error *error)
{
    reader->placed = false;
    int rc = pd_segment_batch(segment, offset, true, &reader->header, error);
    if (rc != PD_OK)
        return rc;
    uint64_t base = reader->header.base_sequence;
    if (sequence < base || sequence - base >= reader->header.record_count)
        return pd_segment_corrupted(segment, offset, error);
    reader->segment_base = segment->base;
    reader->batch_offset = offset;
    reader->record_offset = reader->header.records_offset;
    reader->sequence = base;
    reader->batch = segment->map + offset;
    reader->packed = segment->packed;
    reader->placed = true;
    return PD_OK;
}

int pd_reader_seek_batch(struct pd_reader *reader, const struct pd_log *log, uint64_t sequence, pd_error *error)
{
    struct pd_segment *segment = pd_log_segment(log, sequence);
    if (segment == NULL)
        return pd_fail(error, PD_INVALID, "sequence %llu is not in the log %.300s", (unsigned long long)sequence,
                       log->directory);
    if (reader->placed && reader->segment_base == segment->base) {
        if (in_batch(reader, sequence)) {
            int rc = pd_segment_load(segment, reader->batch_offset, reader->header.length, error);
            reader->batch = segment->map + reader->batch_offset;
            reader->packed = segment->packed;
            return rc;
        }
        if (sequence == reader->header.base_sequence + reader->header.record_count)
            return enter(reader, segment, reader->batch_offset + reader->header.length, sequence, error);
    }
    uint64_t offset;
    int rc = pd_segment_find(segment, sequence, &offset, error);
    return rc == PD_OK ? enter(reader, segment, offset, sequence, error) : rc;
}

int pd_reader_seek(struct pd_reader *reader, const struct pd_log *log, uint64_t sequence, pd_error *error)
{
    int rc = pd_reader_seek_batch(reader, log, sequence, error);
    if (rc != PD_OK)
        return rc;
    if (sequence < reader->sequence) {
        reader->sequence = reader->header.base_sequence;
        reader->record_offset = reader->header.records_offset;
    }
    for (;;) {
        const uint8_t *at = reader->batch + reader->record_offset;
        if (!pd_record_load(at, reader->header.length - reader->record_offset, &reader->record) ||
            reader->record.subject >= reader->header.subject_count) {
            reader->placed = false;
            return pd_segment_corrupted(pd_log_segment(log, sequence), reader->batch_offset, error);
        }
        if (reader->sequence == sequence)
            return PD_OK;
        reader->record_offset += reader->record.length;
        reader->sequence++;
    }
}
