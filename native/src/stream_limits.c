/* The limits of a stream: what of a batch they refuse, and which records they erase. Whole segments are dropped in
 * stream.c. */
#include "engine.h"
#include "erasure.h"
#include "stream_internal.h"

int pd_stream_check_sizes(const struct pd_stream *stream, const struct pd_batch_view *batch, pd_error *error)
{
    uint64_t limit = stream->config.max_record_bytes;
    const uint8_t *at = batch->data + batch->header.records_offset;
    for (uint32_t i = 0; limit != 0 && i < batch->header.record_count; i++) {
        struct pd_record record;
        memcpy(&record, at, sizeof record);
        uint64_t size = (uint64_t)record.id_length + record.headers_length + record.payload_length +
                        stream->table[record.subject].length;
        if (size > limit)
            return pd_fail(error, PD_TOO_LARGE, "record %u has %llu bytes; stream %s takes records of at most %llu", i,
                           (unsigned long long)size, stream->name, (unsigned long long)limit);
        at += record.length;
    }
    return PD_OK;
}

uint64_t pd_stream_dropping_bytes(const pd_stream_config *config)
{
    return config->discard_new != 0 ? 0 : config->max_bytes;
}

int pd_stream_check_room(const struct pd_stream *stream, const struct pd_batch_header *header, pd_error *error)
{
    const pd_stream_config *config = &stream->config;
    const struct pd_log *log = &stream->log;
    uint64_t kept = log->kept;
    if (config->discard_new == 0)
        return PD_OK;
    if (config->max_records != 0 && kept + header->record_count > config->max_records)
        return pd_fail(error, PD_STREAM_FULL, "stream %s has %llu records and takes no more than %llu", stream->name,
                       (unsigned long long)kept, (unsigned long long)config->max_records);
    uint64_t bytes = config->max_bytes != 0 ? pd_log_kept_bytes(log) : 0;
    if (config->max_bytes != 0 && bytes + header->length > config->max_bytes)
        return pd_fail(error, PD_STREAM_FULL, "stream %s has %llu bytes and takes no more than %llu", stream->name,
                       (unsigned long long)bytes, (unsigned long long)config->max_bytes);
    return PD_OK;
}

int pd_stream_erase(struct pd_stream *stream, uint64_t from, uint64_t to, uint64_t *erased, pd_error *error)
{
    for (size_t i = 0; i < stream->consumer_count; i++)
        pd_consumer_forget(stream->consumers[i], &stream->log, from, to, &stream->selection);
    return pd_log_erase(&stream->log, from, to, erased, error);
}

int pd_stream_erase_one(struct pd_stream *stream, uint64_t sequence, struct pd_span subject, pd_error *error)
{
    for (size_t i = 0; i < stream->consumer_count; i++)
        pd_consumer_forget_one(stream->consumers[i], sequence, subject);
    return pd_log_erase(&stream->log, sequence, sequence, NULL, error);
}

void pd_stream_trim(struct pd_stream *stream)
{
    struct pd_log *log = &stream->log;
    uint64_t limit = stream->config.max_records;
    if (limit == 0 || log->kept <= limit || stream->config.discard_new != 0)
        return;
    uint64_t from = log->first;
    uint64_t to = pd_log_nth(log, log->kept - limit) - 1;
    if (pd_stream_erase(stream, from, to, NULL, NULL) == PD_OK)
        pd_log_erase_commit(log, NULL);
}

uint64_t pd_stream_first_time(struct pd_stream *stream)
{
    struct pd_batch_header header;
    uint64_t first = pd_log_first_sequence(&stream->log);
    uint64_t offset;
    if (first > stream->log.last_sequence)
        return 0;
    if (first == stream->first_looked_up)
        return stream->first_time_ns;
    struct pd_segment *segment = pd_log_segment(&stream->log, first);
    if (segment == NULL || pd_segment_find(segment, first, &offset, NULL) != PD_OK ||
        pd_segment_batch(segment, offset, false, &header, NULL) != PD_OK)
        return 0;
    stream->first_looked_up = first;
    stream->first_time_ns = header.append_time_ns;
    return header.append_time_ns;
}
