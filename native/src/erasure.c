/* Records that are removed from the middle of a log, and what is left.
 *
 * A segment's file never changes. What is erased of it is a bitmap beside it, one bit for each record, made when the
 * first is erased; a sealed segment of which nothing is kept is unlinked, wherever it stands, and leaves a gap in the
 * sequences that files hold. So an erasure costs a bit and 16 bytes in a file, and nothing where nothing is erased.
 *
 * The file DIRECTORY/erased is a journal (its layout is at the head of journal.c), made with the first erasure. Its
 * records:
 *
 *     ERASED     number records from sequence on are erased
 *     RANGE      a range begins at sequence; the next record says where it ends, and what it is:
 *     ERASED_TO  it is erased
 *     GONE_TO    it was one segment, or several, whose files are unlinked
 *     NEWEST     sequence is a time: the newest record whose file is unlinked was appended then
 *
 * It is written before what it says is answered, and synced only for whoever asks (a purge). After a failed write
 * it is `stale`: it lacks what memory knows, and the next commit writes it anew. GONE_TO is synced before the file
 * is unlinked, and the directory before that if a segment is new in it: so opening finds every gap explained, and a
 * segment behind it whose name says where the sequences go on. A gap that is not explained is damage.
 *
 * The machine may die with the journal ahead of the log. What it says of sequences that the log lost must not hit
 * the records that get them next: opening forgets it, durably, before anything is appended.
 *
 * The bytes of what is kept are an estimate: a record's share of its segment is that of the segment's average
 * record. To know better, erasing (and opening) would have to read every erased record once more.
 */
#include "erasure.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static uint64_t record_count(const struct pd_segment *segment)
{
    return segment->last + 1 - segment->base;
}

static uint64_t kept_of(const struct pd_segment *segment)
{
    return record_count(segment) - segment->erased.count;
}

/* The place of the last segment that begins at or before the sequence, which is not before the first. */
static size_t place_of(const struct pd_log *log, uint64_t sequence)
{
    size_t low = 0;
    size_t high = log->count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (log->segments[middle]->base <= sequence)
            low = middle;
        else
            high = middle;
    }
    return low;
}

uint64_t pd_log_next_kept(const struct pd_log *log, uint64_t sequence)
{
    uint64_t at = pd_max64(sequence, log->first);
    if (at > log->last_sequence)
        return at;
    for (size_t i = place_of(log, at); i < log->count; i++) {
        const struct pd_segment *segment = log->segments[i];
        uint64_t end = record_count(segment);
        uint64_t from = at > segment->base ? at - segment->base : 0;
        uint64_t found = from < end ? pd_bitmap_next(&segment->erased, from, end, false) : end;
        if (found < end)
            return segment->base + found;
    }
    return log->last_sequence + 1;
}

uint64_t pd_log_previous(const struct pd_log *log, uint64_t sequence)
{
    uint64_t at = pd_min64(sequence, log->last_sequence);
    if (at < log->first)
        return 0;
    if (log->erased == 0 && !log->gaps)
        return at;
    for (size_t i = place_of(log, at) + 1; i > 0; i--) {
        const struct pd_segment *segment = log->segments[i - 1];
        uint64_t end = pd_min64(at, segment->last) + 1 - segment->base;
        uint64_t found = pd_bitmap_last_free(&segment->erased, end);
        if (found < end)
            return segment->base + found;
    }
    return 0;
}

uint64_t pd_log_count(const struct pd_log *log, uint64_t from, uint64_t to)
{
    uint64_t found = 0;
    from = pd_max64(from, log->first);
    to = pd_min64(to, log->last_sequence);
    if (from > to)
        return 0;
    if (log->erased == 0 && !log->gaps)
        return to - from + 1;
    for (size_t i = place_of(log, from); i < log->count && log->segments[i]->base <= to; i++) {
        const struct pd_segment *segment = log->segments[i];
        uint64_t begin = pd_max64(from, segment->base) - segment->base;
        uint64_t end = pd_min64(to + 1, segment->last + 1) - segment->base;
        if (begin < end)
            found += end - begin - pd_bitmap_count(&segment->erased, begin, end);
    }
    return found;
}

uint64_t pd_log_nth(const struct pd_log *log, uint64_t skip)
{
    size_t i = 0;
    for (; skip >= kept_of(log->segments[i]); i++)
        skip -= kept_of(log->segments[i]);
    const struct pd_segment *segment = log->segments[i];
    uint64_t at = 0;
    uint64_t end = record_count(segment);
    for (uint64_t kept; segment->erased.count > 0; at += 64) { /* whole words first */
        kept = 64 - pd_bitmap_count(&segment->erased, at, at + 64);
        if (at + 64 >= end || skip < kept)
            break;
        skip -= kept;
    }
    for (at = pd_bitmap_next(&segment->erased, at, end, false); skip > 0 && segment->erased.count > 0; skip--)
        at = pd_bitmap_next(&segment->erased, at + 1, end, false);
    return segment->base + at + skip;
}

/* The share of so many bytes of the segment that its erased records are. */
static uint64_t erased_share(const struct pd_segment *segment, uint64_t bytes)
{
    return (uint64_t)((double)bytes * (double)segment->erased.count / (double)record_count(segment));
}

uint64_t pd_log_kept_bytes(const struct pd_log *log)
{
    uint64_t bytes = log->bytes;
    for (size_t i = 0; log->erased > 0 && i < log->count; i++)
        if (log->segments[i]->erased.count > 0)
            bytes -= erased_share(log->segments[i], pd_segment_stored(log->segments[i]));
    return bytes;
}

uint64_t pd_log_kept_size(const struct pd_log *log)
{
    uint64_t size = 0;
    for (size_t i = 0; i < log->count; i++) {
        const struct pd_segment *segment = log->segments[i];
        size += segment->size;
        if (segment->erased.count > 0)
            size -= erased_share(segment, segment->size);
    }
    return size;
}

/* The journal */

static bool refuse_all(void *context, const struct pd_journal_entry *entry)
{
    (void)context;
    (void)entry;
    return false;
}

static int open_journal(struct pd_log *log, pd_journal_replay replay, void *context, pd_error *error)
{
    char path[PD_PATH_MAX];
    struct pd_journal *journal = malloc(sizeof *journal);
    if (journal == NULL)
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for what is erased of %.300s", log->directory);
    snprintf(path, sizeof path, "%s/erased", log->directory);
    int rc = pd_journal_open(journal, path, replay, context, error);
    if (rc != PD_OK) {
        free(journal);
        return rc;
    }
    log->erasures = journal;
    return PD_OK;
}

static void write_range(struct pd_journal *journal, uint64_t from, uint64_t to, enum pd_journal_kind end)
{
    if (end == PD_J_ERASED_TO && to - from < UINT16_MAX) {
        pd_journal_add(journal, PD_J_ERASED, (uint16_t)(to - from + 1), from);
        return;
    }
    pd_journal_add(journal, PD_J_RANGE, 0, from);
    pd_journal_add(journal, end, 0, to);
}

static void write_all(const struct pd_log *log, struct pd_journal *fresh)
{
    pd_journal_add(fresh, PD_J_NEWEST, 0, log->newest_time_ns);
    for (size_t i = 0; i < log->count; i++) {
        const struct pd_segment *segment = log->segments[i];
        const struct pd_bitmap *erased = &segment->erased;
        uint64_t end = record_count(segment);
        if (i > 0 && log->segments[i - 1]->last + 1 < segment->base)
            write_range(fresh, log->segments[i - 1]->last + 1, segment->base - 1, PD_J_GONE_TO);
        for (uint64_t at = 0; erased->count > 0 && at < end;) {
            uint64_t from = pd_bitmap_next(erased, at, end, true);
            at = pd_bitmap_next(erased, from, end, false);
            if (from < end)
                write_range(fresh, segment->base + from, segment->base + at - 1, PD_J_ERASED_TO);
        }
    }
}

static int write_anew(struct pd_log *log, pd_error *error)
{
    struct pd_journal *fresh = malloc(sizeof *fresh);
    int rc = fresh != NULL ? PD_OK : pd_fail(error, PD_LIMIT_REACHED, "no memory to write %.300s anew", log->directory);
    if (rc == PD_OK && log->erasures == NULL)
        rc = open_journal(log, refuse_all, NULL, error);
    if (rc == PD_OK)
        rc = pd_journal_compact_begin(log->erasures, fresh, error);
    if (rc == PD_OK) {
        write_all(log, fresh);
        rc = pd_journal_compact_end(log->erasures, fresh, error);
    }
    free(fresh);
    log->stale = rc != PD_OK;
    log->erasing.count = 0;
    return rc;
}

int pd_log_erase_commit(struct pd_log *log, pd_error *error)
{
    if (log->stale)
        return write_anew(log, error);
    if (log->erasures == NULL)
        return PD_OK;
    pd_journal_run_end(log->erasures, PD_J_ERASED, &log->erasing);
    int rc = pd_journal_commit(log->erasures, error);
    log->stale = rc != PD_OK;
    if (rc == PD_OK && pd_journal_wants_compaction(log->erasures) && write_anew(log, NULL) != PD_OK)
        log->stale = false; /* the old one is whole; tried again when it has grown more */
    return rc;
}

int pd_log_erase_descriptor(const struct pd_log *log)
{
    if (log->erasures == NULL)
        return -1;
    int fd = dup(log->erasures->fd);
    return fd >= 0 ? fd : -2;
}

/* Erasing */

static bool is_hollow(const struct pd_segment *segment)
{
    return segment->erased.count > 0 && kept_of(segment) == 0;
}

/* Both are in the log. There is memory. */
static void set_bits(struct pd_log *log, uint64_t from, uint64_t to, uint64_t *erased)
{
    for (size_t i = place_of(log, from); i < log->count && log->segments[i]->base <= to; i++) {
        struct pd_segment *segment = log->segments[i];
        uint64_t begin = pd_max64(from, segment->base);
        uint64_t end = pd_min64(to, segment->last) + 1;
        if (begin < end)
            *erased += pd_bitmap_set(&segment->erased, begin - segment->base, end - segment->base);
        if (is_hollow(segment) && i + 1 < log->count)
            log->hollow = true;
    }
    log->erased += *erased;
    log->kept -= *erased;
    if (from <= log->first)
        log->first = pd_log_next_kept(log, log->first);
}

static bool reserve_bits(const struct pd_log *log, uint64_t from, uint64_t to)
{
    for (size_t i = place_of(log, from); i < log->count && log->segments[i]->base <= to; i++) {
        struct pd_segment *segment = log->segments[i];
        if (!pd_bitmap_reserve(&segment->erased, pd_min64(to, segment->last) + 1 - segment->base))
            return false;
    }
    return true;
}

int pd_log_erase(struct pd_log *log, uint64_t from, uint64_t to, uint64_t *erased, pd_error *error)
{
    uint64_t ignored;
    uint64_t *count = erased != NULL ? erased : &ignored;
    *count = 0;
    from = pd_log_next(log, from);
    to = pd_min64(to, log->last_sequence);
    if (from > to)
        return PD_OK;
    if (!reserve_bits(log, from, to))
        return pd_fail(error, PD_LIMIT_REACHED, "no memory to erase records of %.300s", log->directory);
    if (log->erasures == NULL && open_journal(log, refuse_all, NULL, NULL) != PD_OK)
        log->stale = true;
    if (!log->stale && from == to)
        pd_journal_run_add(log->erasures, PD_J_ERASED, &log->erasing, from);
    else if (!log->stale)
        write_range(log->erasures, from, to, PD_J_ERASED_TO);
    set_bits(log, from, to, count);
    return PD_OK;
}

/* Make sure that the gap that a segment leaves will be explained. */
static int explain_gap(struct pd_log *log, const struct pd_segment *segment)
{
    int rc = log->grown ? pd_sync_directory(log->directory, NULL) : PD_OK;
    if (rc != PD_OK)
        return rc;
    log->grown = false;
    if (log->stale || log->erasures == NULL)
        rc = write_anew(log, NULL);
    if (rc != PD_OK)
        return rc;
    write_range(log->erasures, segment->base, segment->last, PD_J_GONE_TO);
    rc = pd_log_erase_commit(log, NULL);
    return rc == PD_OK && fdatasync(log->erasures->fd) != 0 ? PD_IO_ERROR : rc;
}

bool pd_log_drop_erased(struct pd_log *log, struct pd_segment **dropped)
{
    bool all = true;
    bool any = false;
    for (size_t i = 0; log->hollow && i + 1 < log->count; i++) {
        struct pd_segment *segment = log->segments[i];
        if (!is_hollow(segment))
            continue;
        bool durable = segment->synced == segment->size && segment->last <= log->durable_sequence;
        if (!durable || (i > 0 && explain_gap(log, segment) != PD_OK) || pd_log_drop(log, i, dropped, NULL) != PD_OK) {
            all = false;
            continue;
        }
        any = true;
        i--;
    }
    if (any && log->erasures != NULL) {
        pd_journal_add(log->erasures, PD_J_NEWEST, 0, log->newest_time_ns);
        pd_log_erase_commit(log, NULL);
    }
    log->hollow = log->hollow && !all;
    return all;
}

/* Opening */

static bool add_interval(struct pd_interval **items, size_t *count, size_t *capacity, uint64_t from, uint64_t to)
{
    if (!pd_reserve((void **)items, capacity, *count + 1, sizeof **items))
        return false;
    (*items)[(*count)++] = (struct pd_interval){from, to};
    return true;
}

static bool replay(void *context, const struct pd_journal_entry *entry)
{
    struct pd_erasures *erasures = context;
    uint64_t from = erasures->from;
    bool room = true;
    erasures->from = 0;
    switch (entry->kind) {
    case PD_J_NEWEST:
        erasures->newest_time_ns = pd_max64(erasures->newest_time_ns, entry->sequence);
        return true;
    case PD_J_RANGE:
        erasures->from = entry->sequence;
        return true;
    case PD_J_ERASED:
        if (entry->number == 0)
            return false;
        room = add_interval(&erasures->erased, &erasures->erased_count, &erasures->erased_capacity, entry->sequence,
                            entry->sequence + entry->number - 1);
        break;
    case PD_J_ERASED_TO:
    case PD_J_GONE_TO:
        if (from == 0 || entry->sequence < from)
            return false;
        room = entry->kind == PD_J_GONE_TO ? add_interval(&erasures->gone, &erasures->gone_count,
                                                          &erasures->gone_capacity, from, entry->sequence)
                                           : add_interval(&erasures->erased, &erasures->erased_count,
                                                          &erasures->erased_capacity, from, entry->sequence);
        break;
    default:
        return false;
    }
    erasures->no_memory = erasures->no_memory || !room;
    return true;
}

static int compare_ends(const void *left, const void *right)
{
    uint64_t a = ((const struct pd_interval *)left)->to;
    uint64_t b = ((const struct pd_interval *)right)->to;
    return (a > b) - (a < b);
}

int pd_erasures_load(struct pd_log *log, struct pd_erasures *erasures, pd_error *error)
{
    char path[PD_PATH_MAX];
    *erasures = (struct pd_erasures){0};
    snprintf(path, sizeof path, "%s/erased", log->directory);
    if (access(path, F_OK) != 0)
        return errno == ENOENT ? PD_OK : pd_fail_errno(error, "cannot open", path);
    int rc = open_journal(log, replay, erasures, error);
    if (rc == PD_OK && erasures->no_memory)
        rc = pd_fail(error, PD_LIMIT_REACHED, "no memory for what is erased of %.300s", log->directory);
    if (erasures->gone_count > 1)
        qsort(erasures->gone, erasures->gone_count, sizeof *erasures->gone, compare_ends);
    return rc;
}

void pd_erasures_fini(struct pd_erasures *erasures)
{
    free(erasures->erased);
    free(erasures->gone);
    *erasures = (struct pd_erasures){0};
}

uint64_t pd_erasures_last(const struct pd_erasures *erasures, uint64_t base, uint64_t next)
{
    uint64_t last = next - 1;
    for (size_t i = erasures->gone_count; i > 0; i--) { /* those that end there, one before the other */
        const struct pd_interval *gone = &erasures->gone[i - 1];
        if (gone->to == last && gone->from > base)
            last = gone->from - 1;
        else if (gone->to < base)
            break;
    }
    return last;
}

bool pd_erasures_gone(const struct pd_erasures *erasures, uint64_t base)
{
    for (size_t i = 0; i < erasures->gone_count; i++)
        if (base >= erasures->gone[i].from && base <= erasures->gone[i].to)
            return true;
    return false;
}

int pd_erasures_apply(struct pd_log *log, const struct pd_erasures *erasures, pd_error *error)
{
    bool beyond = false;
    log->kept = 0;
    log->first = log->segments[0]->base;
    for (size_t i = 0; i < log->count; i++) {
        log->kept += record_count(log->segments[i]);
        log->gaps = log->gaps || (i > 0 && log->segments[i - 1]->last + 1 < log->segments[i]->base);
    }
    for (size_t i = 0; i < erasures->erased_count; i++) {
        uint64_t from = pd_max64(erasures->erased[i].from, log->segments[0]->base);
        uint64_t to = pd_min64(erasures->erased[i].to, log->last_sequence);
        uint64_t erased = 0;
        beyond = beyond || erasures->erased[i].to > log->last_sequence;
        if (from > to)
            continue;
        if (!reserve_bits(log, from, to))
            return pd_fail(error, PD_LIMIT_REACHED, "no memory for what is erased of %.300s", log->directory);
        set_bits(log, from, to, &erased);
    }
    for (size_t i = 0; i < erasures->gone_count; i++) /* else what is appended next would be taken for it */
        beyond = beyond || erasures->gone[i].to > log->last_sequence;
    log->newest_time_ns = pd_max64(log->newest_time_ns, erasures->newest_time_ns);
    return beyond ? write_anew(log, error) : PD_OK;
}
