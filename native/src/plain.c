/* Messages of plain nng programs, which know nothing of platformd.
 *
 * On the push socket (PULL here, PUSH at the program) a message is one of
 *
 *    a record:   subject, a line feed (byte 10), payload
 *    a batch:    what begins with "PDB1": the format at the head of batch.c, unstamped
 *
 * A subject is printable ASCII without spaces, so the first line feed ends it; the payload is any bytes, also
 * none. A subject that begins with PDB1 cannot be pushed as a record: it would be taken for a batch. On the live
 * socket (PUB here, SUB at the program) a record looks the same, so that a prefix of the subject is what to subscribe
 * to, and so that what one daemon says live can be pushed to another as it is. Both are made for a shell: a line feed
 * can be typed where a zero byte cannot.
 *
 * A record's time is the daemon's clock; it has no msg_id and no headers. A batch is stored as on the ingest socket,
 * de-duplication by msg_id included. Nothing is answered: PUSH has no way back.
 */
#include "plain.h"

#include "batch.h"
#include "crc32c.h"
#include "subject.h"

bool pd_plain_is_batch(const uint8_t *message, size_t length)
{
    uint32_t magic = 0;
    if (length >= sizeof magic)
        memcpy(&magic, message, sizeof magic);
    return magic == PD_BATCH_MAGIC;
}

int pd_plain_parse(const uint8_t *message, size_t length, uint64_t max_record, struct pd_plain *plain, pd_error *error)
{
    size_t first = length < PD_SUBJECT_MAX + 1 ? length : PD_SUBJECT_MAX + 1;
    const uint8_t *end = first > 0 ? memchr(message, '\n', first) : NULL;
    if (end == NULL)
        return pd_fail(error, PD_INVALID,
                       "a message of %zu bytes has no line feed in its first %u: it is SUBJECT, a line feed, PAYLOAD",
                       length, PD_SUBJECT_MAX + 1);
    plain->subject = (struct pd_span){message, (uint32_t)(end - message)};
    const char *wrong = pd_subject_error((const char *)message, plain->subject.length, false);
    if (wrong != NULL)
        return pd_fail(error, PD_INVALID, "the subject of a message %s", wrong);
    size_t rest = length - plain->subject.length - 1;
    if (rest > max_record)
        return pd_fail(error, PD_TOO_LARGE, "a record on %.*s has %zu bytes; the limit is %llu",
                       (int)plain->subject.length, (const char *)message, rest, (unsigned long long)max_record);
    plain->payload = (struct pd_span){end + 1, (uint32_t)rest};
    return PD_OK;
}

void pd_plain_begin(struct pd_plain_batch *batch)
{
    batch->subject_count = batch->record_count = 0;
    batch->table_length = batch->records_length = 0;
}

/* The place of the subject among the batch's, which is where a new one would be when it is not there. The newest
 * come first: programs repeat themselves. */
static uint32_t find_subject(const struct pd_plain_batch *batch, const struct pd_span *subject)
{
    for (uint32_t i = batch->subject_count; i-- > 0;)
        if (batch->subjects[i].length == subject->length &&
            memcmp(batch->subjects[i].data, subject->data, subject->length) == 0)
            return i;
    return batch->subject_count;
}

bool pd_plain_add(struct pd_plain_batch *batch, const struct pd_plain *plain, size_t room)
{
    uint32_t subject = find_subject(batch, &plain->subject);
    bool new = subject == batch->subject_count;
    size_t table = batch->table_length + (new ? 1 + plain->subject.length : 0);
    size_t records = batch->records_length + pd_align8(PD_RECORD_HEADER + (size_t)plain->payload.length);
    if (batch->record_count > 0 && (subject == PD_PLAIN_SUBJECTS || batch->record_count == PD_PLAIN_RECORDS ||
                                    pd_align8(PD_BATCH_HEADER + table) + records > room))
        return false;
    if (new)
        batch->subjects[batch->subject_count++] = plain->subject;
    batch->records[batch->record_count].payload = plain->payload;
    batch->records[batch->record_count++].subject = subject;
    batch->table_length = table;
    batch->records_length = records;
    return true;
}

size_t pd_plain_length(const struct pd_plain_batch *batch)
{
    return pd_align8(PD_BATCH_HEADER + batch->table_length) + batch->records_length;
}

void pd_plain_write(const struct pd_plain_batch *batch, uint64_t time_ns, uint8_t *out)
{
    size_t length = pd_plain_length(batch);
    struct pd_batch_header header = {
        .magic = PD_BATCH_MAGIC,
        .length = (uint32_t)length,
        .subject_count = (uint16_t)batch->subject_count,
        .record_count = batch->record_count,
        .records_offset = (uint32_t)pd_align8(PD_BATCH_HEADER + batch->table_length),
    };
    uint8_t *at = out + PD_BATCH_HEADER;
    for (uint32_t i = 0; i < batch->subject_count; i++) {
        *at++ = (uint8_t)batch->subjects[i].length;
        memcpy(at, batch->subjects[i].data, batch->subjects[i].length);
        at += batch->subjects[i].length;
    }
    memset(at, 0, (size_t)(out + header.records_offset - at));
    at = out + header.records_offset;
    for (uint32_t i = 0; i < batch->record_count; i++) {
        const struct pd_span payload = batch->records[i].payload;
        struct pd_record record = {
            .length = (uint32_t)pd_align8(PD_RECORD_HEADER + (size_t)payload.length),
            .subject = (uint16_t)batch->records[i].subject,
            .payload_length = payload.length,
            .time_ns = time_ns,
        };
        size_t used = PD_RECORD_HEADER + (size_t)payload.length;
        memcpy(at, &record, sizeof record);
        if (payload.length > 0)
            memcpy(at + PD_RECORD_HEADER, payload.data, payload.length);
        memset(at + used, 0, record.length - used);
        at += record.length;
    }
    memcpy(out, &header, sizeof header);
    header.body_crc = pd_crc32c(0, out + PD_BATCH_BODY, length - PD_BATCH_BODY);
    memcpy(out, &header, sizeof header);
}
