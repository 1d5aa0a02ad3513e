/* Batches: the unit on the wire, in memory and on the disk.
 *
 * All numbers are little-endian, everything is aligned to 8 bytes from the batch's start.
 *
 *     0 u32 magic "PDB1"
 *     4 u32 length            whole batch, this header included, a multiple of 8
 *     8 u64 base_sequence     STAMPED: sequence of the first record; 0 from a producer
 *    16 u64 append_time_ns    STAMPED: the daemon's clock
 *    24 u32 epoch             STAMPED: counts the opens of the log
 *    28 u32 undurable         STAMPED: base_sequence - 1 - the last sequence known to be durable, saturating
 *    32 u32 stamp_crc         STAMPED: CRC32C of bytes [0, 32)
 *    36 u32 body_crc          CRC32C of bytes [40, length)
 *    40 u16 flags             0
 *    42 u16 subject_count     1 to 65535
 *    44 u32 record_count      1 or more
 *    48 u32 producer_id       0: none; opaque here
 *    52 u32 records_offset    where the first record starts: 64 + the padded subject table
 *    56 u64 producer_sequence 0: none; opaque here
 *    64 subject table: subject_count times { u8 length (1 to 255), bytes }, zero padded to 8
 *
 *    a record:
 *     0 u32 length            whole record, padded to 8
 *     4 u16 subject           index into the table
 *     6 u16 id_length         at most 255; 0: none
 *     8 u32 headers_length    MessagePack map of strings, opaque here; 0: none
 *    12 u32 payload_length
 *    16 u64 time_ns           the producer's clock
 *    24 id, headers, payload, zero padding to 8
 *
 * The stamped part is outside of body_crc, so that the daemon never sums the records a second time: what
 * the producer computed is what lies on the disk. Padding must be zero, so that every byte under body_crc
 * has one valid form.
 */
#include "batch.h"

#include "crc32c.h"
#include "subject.h"

#include <assert.h>
#include <stddef.h>

static_assert(sizeof(struct pd_batch_header) == PD_BATCH_HEADER, "the header is 64 bytes");
static_assert(offsetof(struct pd_batch_header, stamp_crc) == PD_BATCH_STAMPED, "the stamp ends at 32");
static_assert(offsetof(struct pd_batch_header, flags) == PD_BATCH_BODY, "the body starts at 40");
static_assert(sizeof(struct pd_record) == PD_RECORD_HEADER, "a record's header is 24 bytes");

static bool all_zero(const uint8_t *at, const uint8_t *end)
{
    for (; at < end; at++)
        if (*at != 0)
            return false;
    return true;
}

static int check_header(const struct pd_batch_header *header, size_t length, const struct pd_batch_limits *limits,
                        pd_error *error)
{
    if ((header->magic & 0xffffffu) != (PD_BATCH_MAGIC & 0xffffffu))
        return pd_fail(error, PD_INVALID, "this is not a batch: it does not begin with PDB1");
    if (header->magic != PD_BATCH_MAGIC)
        return pd_fail(error, PD_BAD_VERSION, "the batch has format '%c'; this daemon knows 1",
                       (int)(header->magic >> 24 & 0x7f));
    if (header->length != length || length % 8 != 0)
        return pd_fail(error, PD_INVALID, "the batch says that it has %u bytes and has %zu", header->length, length);
    if (length > limits->max_batch)
        return pd_fail(error, PD_TOO_LARGE, "the batch has %zu bytes; the limit is %llu", length,
                       (unsigned long long)limits->max_batch);
    if (header->flags != 0)
        return pd_fail(error, PD_INVALID, "the batch has flags 0x%x; none are defined", header->flags);
    if (header->subject_count == 0 || header->record_count == 0)
        return pd_fail(error, PD_INVALID, "the batch has %u subjects and %u records; it needs one of each",
                       header->subject_count, header->record_count);
    return PD_OK;
}

/* The table, its padding and records_offset. */
static int check_subjects(const uint8_t *data, const struct pd_batch_header *header, pd_error *error)
{
    const uint8_t *at = data + PD_BATCH_HEADER;
    const uint8_t *end = data + header->length;
    for (uint32_t i = 0; i < header->subject_count; i++) {
        if (at >= end || at + 1 + *at > end)
            return pd_fail(error, PD_INVALID, "the batch's subject table ends in subject %u", i);
        const char *wrong = pd_subject_error((const char *)at + 1, *at, false);
        if (wrong != NULL)
            return pd_fail(error, PD_INVALID, "subject %u of the batch %s", i, wrong);
        at += 1 + *at;
    }
    size_t offset = pd_align8((size_t)(at - data));
    if (offset > header->length || header->records_offset != offset)
        return pd_fail(error, PD_INVALID, "the batch says that its records start at %u; its subjects end at %zu",
                       header->records_offset, offset);
    if (!all_zero(at, data + offset))
        return pd_fail(error, PD_INVALID, "the padding behind the batch's subjects is not zero");
    return PD_OK;
}

static int check_record(const uint8_t *at, size_t room, uint32_t index, const struct pd_batch_header *header,
                        const struct pd_batch_limits *limits, struct pd_record *record, pd_error *error)
{
    if (!pd_record_load(at, room, record))
        return pd_fail(error, PD_INVALID, "record %u of the batch does not fit into its length", index);
    size_t used = PD_RECORD_HEADER + (size_t)record->id_length + record->headers_length + record->payload_length;
    if (record->subject >= header->subject_count)
        return pd_fail(error, PD_INVALID, "record %u has subject %u; the batch has %u", index, record->subject,
                       header->subject_count);
    if (record->id_length > PD_MESSAGE_ID_MAX)
        return pd_fail(error, PD_INVALID, "record %u has a msg_id of %u bytes; the limit is %u", index,
                       record->id_length, PD_MESSAGE_ID_MAX);
    if (record->length != pd_align8(used) || !all_zero(at + used, at + record->length))
        return pd_fail(error, PD_INVALID, "record %u is not padded with zeros to a multiple of 8", index);
    if (used - PD_RECORD_HEADER > limits->max_record)
        return pd_fail(error, PD_TOO_LARGE, "record %u has %zu bytes; the limit is %llu", index,
                       used - PD_RECORD_HEADER, (unsigned long long)limits->max_record);
    return PD_OK;
}

int pd_batch_check(const uint8_t *data, size_t length, const struct pd_batch_limits *limits,
                   struct pd_batch_header *header, pd_error *error)
{
    if (length < PD_BATCH_HEADER)
        return pd_fail(error, PD_INVALID, "the batch has %zu bytes; its header alone has %u", length, PD_BATCH_HEADER);
    memcpy(header, data, sizeof *header);
    int rc = check_header(header, length, limits, error);
    if (rc != PD_OK)
        return rc;
    if (pd_crc32c(0, data + PD_BATCH_BODY, length - PD_BATCH_BODY) != header->body_crc)
        return pd_fail(error, PD_BAD_CHECKSUM, "the batch's checksum does not match its %zu bytes", length);
    if ((rc = check_subjects(data, header, error)) != PD_OK)
        return rc;
    size_t offset = header->records_offset;
    for (uint32_t i = 0; i < header->record_count; i++) {
        struct pd_record record;
        if ((rc = check_record(data + offset, length - offset, i, header, limits, &record, error)) != PD_OK)
            return rc;
        offset += record.length;
    }
    if (offset != length)
        return pd_fail(error, PD_INVALID, "%zu bytes follow the last record of the batch", length - offset);
    return PD_OK;
}

bool pd_batch_stored(const uint8_t *data, size_t room, bool body_too, struct pd_batch_header *header)
{
    if (room < PD_BATCH_HEADER)
        return false;
    memcpy(header, data, sizeof *header);
    if (header->magic != PD_BATCH_MAGIC || header->length > room || header->length < PD_BATCH_HEADER)
        return false;
    if (header->length % 8 != 0 || header->records_offset > header->length || header->records_offset < PD_BATCH_HEADER)
        return false;
    if (header->record_count == 0 || pd_crc32c(0, data, PD_BATCH_STAMPED) != header->stamp_crc)
        return false;
    return !body_too || pd_crc32c(0, data + PD_BATCH_BODY, header->length - PD_BATCH_BODY) == header->body_crc;
}

bool pd_record_load(const uint8_t *at, size_t room, struct pd_record *record)
{
    if (room < PD_RECORD_HEADER)
        return false;
    memcpy(record, at, sizeof *record);
    uint64_t used = (uint64_t)PD_RECORD_HEADER + record->id_length + record->headers_length + record->payload_length;
    return record->length <= room && record->length % 8 == 0 && used <= record->length;
}

void pd_batch_stamp(struct pd_batch_header *header)
{
    header->stamp_crc = pd_crc32c(0, (const uint8_t *)header, PD_BATCH_STAMPED);
}

void pd_batch_subjects(const uint8_t *data, const struct pd_batch_header *header, struct pd_span *subjects)
{
    const uint8_t *at = data + PD_BATCH_HEADER;
    for (uint32_t i = 0; i < header->subject_count; i++) {
        subjects[i].data = at + 1;
        subjects[i].length = *at;
        at += 1 + *at;
    }
}

void pd_batch_rebuild(const uint8_t *data, const struct pd_batch_header *header, const uint8_t *without, uint8_t *out,
                      struct pd_batch_header *rebuilt)
{
    *rebuilt = *header;
    rebuilt->record_count = 0;
    memcpy(out, data, header->records_offset);
    size_t from = header->records_offset;
    size_t to = from;
    for (uint32_t i = 0; i < header->record_count; i++) {
        uint32_t length;
        memcpy(&length, data + from, sizeof length);
        if (!pd_bit(without, i)) {
            memcpy(out + to, data + from, length);
            to += length;
            rebuilt->record_count++;
        }
        from += length;
    }
    rebuilt->length = (uint32_t)to;
    memcpy(out, rebuilt, sizeof *rebuilt);
    rebuilt->body_crc = pd_crc32c(0, out + PD_BATCH_BODY, to - PD_BATCH_BODY);
    memcpy(out, rebuilt, sizeof *rebuilt);
}
