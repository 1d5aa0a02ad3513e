/* Where a consumer begins.
 *
 * By time: append times never run backwards, so the segment is found by the first batch of each, and the batch by
 * the segment's marks, with a binary search both times. No more than the one segment is read.
 *
 * Last: backwards from the end, one mark's distance (about 64 KiB) a step, each step forwards.
 *
 * Last per subject: forwards over the whole log. Each batch is looked at once; of a matching subject only a hash of
 * 128 bits and the sequence are kept, and only while the search goes on. Its key is random, so nobody outside can
 * make two subjects collide. What is left at the end, a list of sequences, is the consumer's until it has
 * delivered them.
 */
#include "start.h"

#include "erasure.h"
#include "reader.h"

#include <stdlib.h>

#define STEP_BYTES ((uint64_t)1 << 20) /* of batches that one step looks at: under a millisecond */

/* *before: whether the segment has a batch that is older than time_ns. */
static int begins_before(struct pd_segment *segment, uint64_t time_ns, bool *before, pd_error *error)
{
    struct pd_batch_header header;
    *before = false;
    if (segment->size == 0)
        return PD_OK;
    if (segment->oldest_time_ns != 0) {
        *before = segment->oldest_time_ns < time_ns;
        return PD_OK;
    }
    int rc = pd_segment_batch(segment, 0, false, &header, error);
    if (rc == PD_OK)
        *before = header.append_time_ns < time_ns;
    return rc;
}

/* The first batch of the segment that is not older than time_ns, or the sequence behind its last. */
static int find_in_segment(struct pd_segment *segment, uint64_t time_ns, uint64_t *sequence, pd_error *error)
{
    struct pd_batch_header header;
    uint64_t offset;
    int rc = pd_segment_find(segment, segment->base, &offset, error); /* maps and indexes it */
    size_t low = 0;
    size_t high = segment->mark_count;
    while (rc == PD_OK && high - low > 1) {
        size_t middle = (low + high) / 2;
        rc = pd_segment_batch(segment, segment->marks[middle].offset, false, &header, error);
        if (rc == PD_OK && header.append_time_ns < time_ns)
            low = middle;
        else
            high = middle;
    }
    *sequence = segment->last + 1;
    if (rc == PD_OK)
        offset = segment->marks[low].offset;
    while (rc == PD_OK && offset < segment->size) {
        rc = pd_segment_batch(segment, offset, false, &header, error);
        if (rc == PD_OK && header.append_time_ns >= time_ns) {
            *sequence = header.base_sequence;
            break;
        }
        offset += header.length;
    }
    return rc;
}

int pd_start_at_time(const struct pd_log *log, uint64_t time_ns, uint64_t *sequence, pd_error *error)
{
    size_t low = 0;
    size_t high = log->count;
    bool before;
    int rc = begins_before(log->segments[0], time_ns, &before, error);
    *sequence = pd_log_first_sequence(log);
    if (rc != PD_OK || !before)
        return rc;
    while (high - low > 1) { /* the last segment that begins before */
        size_t middle = (low + high) / 2;
        if ((rc = begins_before(log->segments[middle], time_ns, &before, error)) != PD_OK)
            return rc;
        if (before)
            low = middle;
        else
            high = middle;
    }
    return find_in_segment(log->segments[low], time_ns, sequence, error);
}

/* A place at or before `sequence` that is reached without a walk, and not far from it. */
static int near_before(const struct pd_log *log, uint64_t sequence, uint64_t *near, pd_error *error)
{
    uint64_t offset;
    struct pd_segment *segment = pd_log_segment(log, sequence);
    int rc = pd_segment_find(segment, sequence, &offset, error);
    if (rc != PD_OK)
        return rc;
    *near = pd_segment_mark_before(segment, sequence)->sequence;
    return PD_OK;
}

int pd_start_last_step(const struct pd_log *log, struct pd_span filter, struct pd_selection *scratch, uint64_t *to,
                       uint64_t *found, pd_error *error)
{
    struct pd_reader reader = {0};
    uint64_t from = 1;
    *found = 0;
    *to = pd_log_previous(log, *to);
    if (*to == 0)
        return PD_OK;
    int rc = near_before(log, *to, &from, error);
    from = pd_max64(from, pd_log_first_sequence(log));
    for (uint64_t at = pd_log_next(log, from); rc == PD_OK && at <= *to; at = pd_log_next(log, at)) {
        if ((rc = pd_reader_seek_batch(&reader, log, at, error)) != PD_OK)
            return rc;
        int matching = pd_selection_match(scratch, &reader, filter);
        if (matching < 0)
            return pd_fail(error, PD_LIMIT_REACHED, "no memory to look for the last record");
        uint64_t end = pd_min64(*to + 1, reader.header.base_sequence + reader.header.record_count);
        for (; matching > 0 && matching < reader.header.subject_count && at < end; at = pd_log_next(log, at + 1)) {
            if ((rc = pd_reader_seek(&reader, log, at, error)) != PD_OK)
                return rc;
            if (scratch->matches[reader.record.subject])
                *found = at;
        }
        if (matching == reader.header.subject_count)
            *found = pd_log_previous(log, end - 1);
        at = pd_max64(at, end);
    }
    *to = from - 1;
    return rc;
}

int pd_newest_init(struct pd_newest *newest, pd_error *error)
{
    *newest = (struct pd_newest){0};
    return pd_hash_key_make(&newest->key, error);
}

void pd_newest_fini(struct pd_newest *newest)
{
    free(newest->entries);
    free(newest->slots);
    free(newest->last);
    *newest = (struct pd_newest){0};
}

static uint32_t *find_slot(struct pd_newest *newest, struct pd_hash hash)
{
    size_t mask = newest->slot_count - 1;
    for (size_t at = hash.low & mask;; at = (at + 1) & mask) {
        uint32_t *slot = &newest->slots[at];
        if (*slot == 0)
            return slot;
        const struct pd_newest_entry *entry = &newest->entries[*slot - 1];
        if (entry->hash.low == hash.low && entry->hash.high == hash.high)
            return slot;
    }
}

static bool grow_slots(struct pd_newest *newest)
{
    size_t wanted = newest->slot_count < 64 ? 64 : newest->slot_count * 2;
    uint32_t *slots = calloc(wanted, sizeof *slots);
    if (slots == NULL)
        return false;
    free(newest->slots);
    newest->slots = slots;
    newest->slot_count = wanted;
    for (size_t i = 0; i < newest->count; i++)
        *find_slot(newest, newest->entries[i].hash) = (uint32_t)i + 1;
    return true;
}

static int note(struct pd_newest *newest, struct pd_span subject, uint64_t sequence, pd_error *error)
{
    struct pd_hash hash = pd_hash_pair(&newest->key, subject, (struct pd_span){(const uint8_t *)"", 0});
    bool room = (newest->count + 1) * 2 <= newest->slot_count || grow_slots(newest);
    uint32_t *slot = room ? find_slot(newest, hash) : NULL;
    if (slot != NULL && *slot != 0) {
        newest->entries[*slot - 1].sequence = sequence;
        return PD_OK;
    }
    if (newest->count >= PD_PICKS_MAX)
        return pd_fail(error, PD_LIMIT_REACHED, "more than %u subjects match, which is the limit for last_per_subject",
                       PD_PICKS_MAX);
    if (slot == NULL ||
        !pd_reserve((void **)&newest->entries, &newest->capacity, newest->count + 1, sizeof *newest->entries))
        return pd_fail(error, PD_LIMIT_REACHED, "no memory to look for the last record of each subject");
    newest->entries[newest->count++] = (struct pd_newest_entry){hash, sequence};
    *slot = (uint32_t)newest->count;
    return PD_OK;
}

/* Where each of the batch's matching subjects is last, from `at` to before `end`. */
static int look_at_batch(struct pd_newest *newest, const struct pd_log *log, struct pd_reader *reader,
                         const struct pd_selection *scratch, uint64_t at, uint64_t end, pd_error *error)
{
    size_t subjects = reader->header.subject_count;
    int rc = PD_OK;
    if (subjects == 1)
        return note(newest, scratch->table[0], pd_log_previous(log, end - 1), error);
    if (!pd_reserve((void **)&newest->last, &newest->last_capacity, subjects, sizeof *newest->last))
        return pd_fail(error, PD_LIMIT_REACHED, "no memory to look for the last record of each subject");
    memset(newest->last, 0, subjects * sizeof *newest->last);
    for (; at < end; at = pd_log_next(log, at + 1)) {
        if ((rc = pd_reader_seek(reader, log, at, error)) != PD_OK)
            return rc;
        newest->last[reader->record.subject] = at;
    }
    for (size_t i = 0; i < subjects && rc == PD_OK; i++)
        if (scratch->matches[i] && newest->last[i] != 0)
            rc = note(newest, scratch->table[i], newest->last[i], error);
    return rc;
}

int pd_newest_step(struct pd_newest *newest, const struct pd_log *log, struct pd_span filter,
                   struct pd_selection *scratch, uint64_t *at, uint64_t to, pd_error *error)
{
    struct pd_reader reader = {0};
    *at = pd_max64(*at, pd_log_first_sequence(log));
    for (uint64_t looked = 0; looked < STEP_BYTES; looked += reader.header.length) {
        *at = pd_log_next(log, *at);
        if (*at > to)
            break;
        int rc = pd_reader_seek_batch(&reader, log, *at, error);
        if (rc != PD_OK)
            return rc;
        int matching = pd_selection_match(scratch, &reader, filter);
        if (matching < 0)
            return pd_fail(error, PD_LIMIT_REACHED, "no memory to look for the last record of each subject");
        uint64_t end = pd_min64(to + 1, reader.header.base_sequence + reader.header.record_count);
        if (matching > 0 && (rc = look_at_batch(newest, log, &reader, scratch, *at, end, error)) != PD_OK)
            return rc;
        *at = end;
    }
    return PD_OK;
}

static int compare_sequences(const void *left, const void *right)
{
    uint64_t a = ((const struct pd_newest_entry *)left)->sequence;
    uint64_t b = ((const struct pd_newest_entry *)right)->sequence;
    return (a > b) - (a < b);
}

int pd_newest_finish(struct pd_newest *newest, struct pd_picks *picks, pd_error *error)
{
    if (newest->count > 1)
        qsort(newest->entries, newest->count, sizeof *newest->entries, compare_sequences);
    for (size_t i = 0; i < newest->count; i++)
        if (!pd_picks_add(picks, newest->entries[i].sequence))
            return pd_fail(error, PD_LIMIT_REACHED, "no memory for the last record of each of %zu subjects",
                           newest->count);
    return PD_OK;
}

int pd_newest_collect(const struct pd_log *log, struct pd_span filter, struct pd_selection *scratch, uint64_t to,
                      struct pd_picks *picks, pd_error *error)
{
    struct pd_newest newest;
    uint64_t at = 1;
    int rc = pd_newest_init(&newest, error);
    pd_selection_begin(scratch, 1, 0);
    while (rc == PD_OK && at <= to)
        rc = pd_newest_step(&newest, log, filter, scratch, &at, to, error);
    if (rc == PD_OK)
        rc = pd_newest_finish(&newest, picks, error);
    pd_newest_fini(&newest);
    return rc;
}
