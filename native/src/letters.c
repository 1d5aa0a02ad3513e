/* Records that a consumer gave up, and what a dead letter looks like.
 *
 * A dead letter has the record's payload, time and headers, and these headers more (any of the record's own with
 * such a name, from an earlier death, are left out):
 *
 *     Dead-Reason      max_deliver, term, or term:WHY
 *     Dead-Stream      where the record is
 *     Dead-Consumer    who gave it up
 *     Dead-Sequence    its sequence there
 *     Dead-Subject     its subject there
 *     Dead-Deliveries  how often it was delivered
 *     Dead-Msg-Id      its msg_id, when it had one
 *
 * and the msg_id STREAM/CONSUMER/SEQUENCE/EPOCH. Headers are a MessagePack map of strings to strings; what is no
 * such map is left out too, since it could not be read anyway.
 */
#include "letters.h"

#include "crc32c.h"

#include <stdio.h>
#include <stdlib.h>

void pd_letters_fini(struct pd_letters *letters)
{
    for (size_t i = letters->start; i < letters->end; i++)
        free(letters->items[i].reason);
    free(letters->items);
    *letters = (struct pd_letters){0};
}

bool pd_letters_add(struct pd_letters *letters, const struct pd_letter *letter)
{
    if (letters->start > 0 && letters->end == letters->capacity) {
        memmove(letters->items, letters->items + letters->start, pd_letters_count(letters) * sizeof *letters->items);
        letters->end -= letters->start;
        letters->start = 0;
    }
    if (!pd_reserve((void **)&letters->items, &letters->capacity, letters->end + 1, sizeof *letters->items))
        return false;
    struct pd_letter added = *letter;
    added.reason = NULL;
    if (letter->reason_length > 0) {
        added.reason = malloc(letter->reason_length);
        if (added.reason == NULL)
            return false;
        memcpy(added.reason, letter->reason, letter->reason_length);
    }
    letters->items[letters->end++] = added;
    return true;
}

bool pd_letters_remove(struct pd_letters *letters, uint64_t sequence, uint64_t epoch)
{
    size_t at = letters->start;
    while (at < letters->end &&
           (letters->items[at].sequence != sequence || (epoch != UINT64_MAX && letters->items[at].epoch != epoch)))
        at++;
    if (at == letters->end)
        return false;
    free(letters->items[at].reason);
    if (at == letters->start) {
        letters->start++;
    } else {
        memmove(letters->items + at, letters->items + at + 1, (letters->end - at - 1) * sizeof *letters->items);
        letters->end--;
    }
    if (letters->start == letters->end)
        letters->start = letters->end = 0;
    return true;
}

uint64_t pd_letters_lowest(const struct pd_letters *letters)
{
    uint64_t lowest = UINT64_MAX;
    for (size_t i = letters->start; i < letters->end; i++)
        lowest = pd_min64(lowest, letters->items[i].sequence);
    return lowest != UINT64_MAX ? lowest : 0;
}

bool pd_utf8_valid(const uint8_t *text, size_t length)
{
    for (size_t i = 0; i < length;) {
        uint8_t lead = text[i];
        size_t more = lead < 0x80 ? 0 : lead >> 5 == 6 ? 1 : lead >> 4 == 14 ? 2 : lead >> 3 == 30 ? 3 : 9;
        if (more == 9 || more >= length - i)
            return false;
        uint32_t value = more == 0 ? lead : lead & (0x3fu >> more);
        for (size_t j = 1; j <= more; j++) {
            if (text[i + j] >> 6 != 2)
                return false;
            value = value << 6 | (text[i + j] & 0x3fu);
        }
        static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
        if (value < least[more] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000))
            return false;
        i += more + 1;
    }
    return true;
}

/* The string that begins at *at; false when it does not fit. */
static bool take_string(const uint8_t **at, const uint8_t *end, struct pd_span *text)
{
    if (*at >= end)
        return false;
    uint8_t lead = *(*at)++;
    size_t width = lead == 0xd9 ? 1 : lead == 0xda ? 2 : lead == 0xdb ? 4 : 0;
    uint64_t length = width == 0 ? lead & 0x1f : 0;
    if ((width == 0 && lead >> 5 != 5) || (size_t)(end - *at) < width)
        return false;
    while (width-- > 0)
        length = length << 8 | *(*at)++;
    if ((uint64_t)(end - *at) < length)
        return false;
    *text = (struct pd_span){*at, (uint32_t)length};
    *at += length;
    return true;
}

static bool is_ours(const struct pd_span *name)
{
    static const char *const names[] = {"Dead-Reason",  "Dead-Stream",     "Dead-Consumer", "Dead-Sequence",
                                        "Dead-Subject", "Dead-Deliveries", "Dead-Msg-Id"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (name->length == strlen(names[i]) && memcmp(name->data, names[i], name->length) == 0)
            return true;
    return false;
}

/* Copy the record's headers without those of an earlier death; the number of them, *length bytes. */
static uint32_t copy_headers(const uint8_t *from, size_t room, uint8_t *out, size_t *length)
{
    const uint8_t *at = from;
    const uint8_t *end = from + room;
    uint32_t count = 0;
    uint32_t kept = 0;
    *length = 0;
    if (room == 0)
        return 0;
    uint8_t lead = *at++;
    size_t width = lead == 0xde ? 2 : lead == 0xdf ? 4 : 0;
    if ((width == 0 && lead >> 4 != 8) || (size_t)(end - at) < width)
        return 0;
    count = width == 0 ? lead & 0x0f : 0;
    while (width-- > 0)
        count = count << 8 | *at++;
    for (uint32_t i = 0; i < count; i++) {
        struct pd_span name;
        struct pd_span value;
        const uint8_t *begin = at;
        if (!take_string(&at, end, &name) || !take_string(&at, end, &value)) {
            *length = 0;
            return 0;
        }
        if (is_ours(&name))
            continue;
        memcpy(out + *length, begin, (size_t)(at - begin));
        *length += (size_t)(at - begin);
        kept++;
    }
    return kept;
}

static uint8_t *put_string(uint8_t *at, const void *text, size_t length)
{
    *at++ = 0xda;
    *at++ = (uint8_t)(length >> 8);
    *at++ = (uint8_t)length;
    memcpy(at, text, length);
    return at + length;
}

static uint8_t *put_header(uint8_t *at, const char *name, const void *value, size_t length)
{
    return put_string(put_string(at, name, strlen(name)), value, length);
}

static uint8_t *put_number(uint8_t *at, const char *name, uint64_t value)
{
    char text[24];
    int length = snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    return put_header(at, name, text, (size_t)length);
}

static size_t write_headers(const struct pd_letter *letter, const struct pd_letter_origin *origin, uint8_t *out)
{
    char reason[PD_REASON_MAX + 8];
    const uint8_t *id = origin->record + PD_RECORD_HEADER;
    size_t copied;
    const char *kind = letter->term ? "term" : "max_deliver";
    int length = letter->reason_length > 0
                     ? snprintf(reason, sizeof reason, "%s:%.*s", kind, (int)letter->reason_length, letter->reason)
                     : snprintf(reason, sizeof reason, "%s", kind);
    bool named = origin->about.id_length > 0 && pd_utf8_valid(id, origin->about.id_length);
    uint32_t count = 6u + named;
    count += copy_headers(id + origin->about.id_length, origin->about.headers_length, out + 5, &copied);
    uint8_t lead[5] = {0xdf, (uint8_t)(count >> 24), (uint8_t)(count >> 16), (uint8_t)(count >> 8), (uint8_t)count};
    memcpy(out, lead, sizeof lead);
    uint8_t *at = out + sizeof lead + copied;
    at = put_header(at, "Dead-Reason", reason, (size_t)length);
    at = put_header(at, "Dead-Stream", origin->stream, strlen(origin->stream));
    at = put_header(at, "Dead-Consumer", origin->consumer, strlen(origin->consumer));
    at = put_number(at, "Dead-Sequence", letter->sequence);
    at = put_header(at, "Dead-Subject", origin->subject.data, origin->subject.length);
    at = put_number(at, "Dead-Deliveries", letter->deliveries);
    if (named)
        at = put_header(at, "Dead-Msg-Id", id, origin->about.id_length);
    return (size_t)(at - out);
}

size_t pd_letter_write(const struct pd_letter *letter, const struct pd_letter_origin *origin, uint8_t *out)
{
    char id[PD_MESSAGE_ID_MAX + 1];
    struct pd_record about = origin->about;
    const uint8_t *payload = origin->record + PD_RECORD_HEADER + about.id_length + about.headers_length;
    int id_length = snprintf(id, sizeof id, "%s/%s/%llu/%llu", origin->stream, origin->consumer,
                             (unsigned long long)letter->sequence, (unsigned long long)letter->epoch);
    about.subject = 0;
    about.id_length = (uint16_t)id_length;
    memcpy(out + PD_RECORD_HEADER, id, about.id_length);
    about.headers_length = (uint32_t)write_headers(letter, origin, out + PD_RECORD_HEADER + about.id_length);
    size_t used = PD_RECORD_HEADER + about.id_length + about.headers_length;
    memcpy(out + used, payload, about.payload_length);
    used += about.payload_length;
    about.length = (uint32_t)pd_align8(used);
    memcpy(out, &about, sizeof about);
    memset(out + used, 0, about.length - used);
    return about.length;
}

size_t pd_letter_batch_begin(uint8_t *out, const char *subject)
{
    size_t length = strlen(subject);
    size_t offset = pd_align8(PD_BATCH_HEADER + 1 + length);
    memset(out, 0, offset);
    out[PD_BATCH_HEADER] = (uint8_t)length;
    memcpy(out + PD_BATCH_HEADER + 1, subject, length);
    return offset;
}

void pd_letter_batch_end(uint8_t *out, size_t length, uint32_t records, struct pd_batch_header *header)
{
    *header = (struct pd_batch_header){
        .magic = PD_BATCH_MAGIC,
        .length = (uint32_t)length,
        .subject_count = 1,
        .record_count = records,
        .records_offset = (uint32_t)pd_align8(PD_BATCH_HEADER + 1 + out[PD_BATCH_HEADER]),
    };
    memcpy(out, header, sizeof *header);
    header->body_crc = pd_crc32c(0, out + PD_BATCH_BODY, length - PD_BATCH_BODY);
    memcpy(out, header, sizeof *header);
}
