/* The records that a fetch takes, and the delivery block that is made of them:
 *
 *     0 u32 subject_count
 *     4 u32 records_offset    from the block's start
 *     8 subject table as in a batch, zero padded to 8
 *    for each record:
 *     0 u64 sequence
 *     8 u64 append_time_ns
 *    16 u32 deliveries        1 for the first time
 *    20 u32 zero
 *    24 the record as in a batch; its subject is an index into this block's table
 *
 * Records of several batches are merged, so their subjects are gathered into one table. First everything is
 * picked (pointers into the log, pinned where it is compressed), then the block's length is known, then it is
 * written once, straight into the message that goes out.
 */
#include "selection.h"

#include "subject.h"

#include <stdlib.h>

#define BLOCK_HEADER   8u
#define BLOCK_RECORD   24u
#define SUBJECT_OFFSET 4u /* of the subject in a record */

void pd_selection_fini(struct pd_selection *selection)
{
    free(selection->picks);
    free(selection->subjects);
    free(selection->slots);
    free(selection->table);
    free(selection->matches);
    *selection = (struct pd_selection){0};
}

void pd_selection_begin(struct pd_selection *selection, uint32_t max_records, uint64_t max_bytes)
{
    selection->count = 0;
    selection->bytes = 0;
    selection->max_records = max_records < PD_FETCH_RECORDS_MAX ? max_records : PD_FETCH_RECORDS_MAX;
    selection->max_bytes = pd_min64(max_bytes, PD_FETCH_BYTES_MAX);
    if (selection->subject_count > 0)
        memset(selection->slots, 0, selection->slot_count * sizeof *selection->slots);
    selection->subject_count = 0;
    selection->subject_bytes = 0;
    selection->last_subject = NULL;
    selection->table_sequence = 0;
}

bool pd_selection_fits(const struct pd_selection *selection, uint32_t length)
{
    if (selection->count >= selection->max_records)
        return false;
    return selection->count == 0 || selection->bytes + length <= selection->max_bytes;
}

int pd_selection_match(struct pd_selection *selection, const struct pd_reader *reader, struct pd_span filter)
{
    const struct pd_batch_header *header = &reader->header;
    size_t count = header->subject_count;
    if (!pd_reserve((void **)&selection->table, &selection->table_capacity, count, sizeof *selection->table) ||
        !pd_reserve((void **)&selection->matches, &selection->match_capacity, count, 1))
        return -1;
    selection->table_sequence = header->base_sequence;
    pd_batch_subjects(reader->batch, header, selection->table);
    int matching = 0;
    for (size_t i = 0; i < count; i++) {
        const struct pd_span *subject = &selection->table[i];
        bool wanted =
            pd_subject_matches((const char *)filter.data, filter.length, (const char *)subject->data, subject->length);
        selection->matches[i] = wanted;
        matching += wanted;
    }
    return matching;
}

static uint64_t span_hash(const struct pd_span *span)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (uint32_t i = 0; i < span->length; i++)
        hash = (hash ^ span->data[i]) * 0x100000001b3u;
    return hash ^ hash >> 32;
}

static uint32_t *find_slot(struct pd_selection *selection, const struct pd_span *subject)
{
    size_t mask = selection->slot_count - 1;
    for (size_t at = span_hash(subject) & mask;; at = (at + 1) & mask) {
        uint32_t *slot = &selection->slots[at];
        if (*slot == 0)
            return slot;
        const struct pd_span *known = &selection->subjects[*slot - 1];
        if (known->length == subject->length && memcmp(known->data, subject->data, subject->length) == 0)
            return slot;
    }
}

static bool grow_slots(struct pd_selection *selection)
{
    size_t wanted = selection->slot_count < 64 ? 64 : selection->slot_count * 2;
    uint32_t *slots = calloc(wanted, sizeof *slots);
    if (slots == NULL)
        return false;
    free(selection->slots);
    selection->slots = slots;
    selection->slot_count = wanted;
    for (size_t i = 0; i < selection->subject_count; i++)
        *find_slot(selection, &selection->subjects[i]) = (uint32_t)i + 1;
    return true;
}

/* The place of the subject in the block's table. */
static bool intern(struct pd_selection *selection, const struct pd_span *subject, uint32_t *place)
{
    if (subject->data == selection->last_subject) { /* mostly the one before it in the same batch has it too */
        *place = selection->last_place;
        return true;
    }
    if ((selection->subject_count + 1) * 2 > selection->slot_count && !grow_slots(selection))
        return false;
    uint32_t *slot = find_slot(selection, subject);
    if (*slot == 0) {
        if (!pd_reserve((void **)&selection->subjects, &selection->subject_capacity, selection->subject_count + 1,
                        sizeof *selection->subjects))
            return false;
        selection->subjects[selection->subject_count++] = *subject;
        selection->subject_bytes += 1 + subject->length;
        *slot = (uint32_t)selection->subject_count;
    }
    *place = *slot - 1;
    selection->last_subject = subject->data;
    selection->last_place = *place;
    return true;
}

bool pd_selection_add(struct pd_selection *selection, const struct pd_reader *reader, uint32_t deliveries)
{
    struct pd_pick pick = {
        .sequence = reader->sequence,
        .append_time_ns = reader->header.append_time_ns,
        .record = pd_reader_record(reader),
        .length = reader->record.length,
        .deliveries = deliveries,
    };
    if (!intern(selection, &selection->table[reader->record.subject], &pick.subject) ||
        !pd_reserve((void **)&selection->picks, &selection->capacity, selection->count + 1, sizeof pick))
        return false;
    pd_reader_pin(reader);
    selection->picks[selection->count++] = pick;
    selection->bytes += pick.length;
    return true;
}

static size_t records_offset(const struct pd_selection *selection)
{
    return pd_align8(BLOCK_HEADER + selection->subject_bytes);
}

size_t pd_selection_block_length(const struct pd_selection *selection)
{
    return records_offset(selection) + selection->count * BLOCK_RECORD + selection->bytes;
}

void pd_selection_write(const struct pd_selection *selection, uint8_t *block)
{
    uint32_t head[2] = {(uint32_t)selection->subject_count, (uint32_t)records_offset(selection)};
    memcpy(block, head, sizeof head);
    uint8_t *at = block + sizeof head;
    for (size_t i = 0; i < selection->subject_count; i++) {
        const struct pd_span *subject = &selection->subjects[i];
        *at++ = (uint8_t)subject->length;
        memcpy(at, subject->data, subject->length);
        at += subject->length;
    }
    memset(at, 0, (size_t)(block + head[1] - at));
    at = block + head[1];
    for (size_t i = 0; i < selection->count; i++) {
        const struct pd_pick *pick = &selection->picks[i];
        uint16_t subject = (uint16_t)pick->subject;
        uint32_t numbers[2] = {pick->deliveries, 0};
        memcpy(at, &pick->sequence, 8);
        memcpy(at + 8, &pick->append_time_ns, 8);
        memcpy(at + 16, numbers, sizeof numbers);
        memcpy(at + BLOCK_RECORD, pick->record, pick->length);
        memcpy(at + BLOCK_RECORD + SUBJECT_OFFSET, &subject, sizeof subject);
        at += BLOCK_RECORD + pick->length;
    }
}
