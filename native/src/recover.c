/* Opening a log: what is there, what was torn, what is damaged.
 *
 * A crash can leave the end of the log in any state: pages of what was never synced may be there, may be
 * zeros, may be there in part, in any order. Nobody was told that it is durable, so it is cut, and the cut is
 * reported. Damage to what somebody was told is durable must never be cut silently. The two look the same at
 * the bad place itself; the batches behind it tell them apart. Each was stamped with how many records before
 * it were not yet durable. So:
 *
 *     at a bad place, where sequence E is expected, look at all that follows: if any batch with valid
 *     checksums has base_sequence - 1 - undurable >= E, then what was at the bad place had been durable, and
 *     opening is refused with the file and the offset; else the log ends at the bad place.
 *
 * What that cannot see: damage to the very last batches, behind which nothing was appended after their
 * sync, looks torn. It is reported as cut bytes.
 *
 * A batch inside the payload of a torn one must not be taken for one of the log's: where the header at the
 * bad place is intact, the search begins behind its length.
 *
 * Only the end is read: the first batch of the last segment says what was durable when it was written, and scanning
 * begins at the segment of the record behind that. Those before it are checked when they are read. What was compressed
 * had been durable, and so had everything before it: scanning begins behind it at the earliest.
 *
 * Compressing a segment goes in this order: BASE.zst.new is written and synced, renamed to BASE.zst, the directory
 * synced, BASE.seg removed. So BASE.zst.new is nothing, and where both of the others are there they are the same: the
 * one that was not compressed is kept.
 */
#include "log.h"

#include "erasure.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The files of a log, by their names. */
struct name {
    uint64_t base;
    bool packed;
};

struct names {
    struct name *items;
    size_t count;
    size_t capacity;
};

/* Of one base, the file that is not compressed comes first. */
static int compare_names(const void *left, const void *right)
{
    const struct name *a = left;
    const struct name *b = right;
    return a->base != b->base ? (a->base > b->base) - (a->base < b->base) : a->packed - b->packed;
}

/* What the name ends with behind its 20 digits, or NULL: it is none of a log's. */
static const char *segment_name(const char *name, uint64_t *base)
{
    unsigned long long value;
    int end = 0;
    if (strlen(name) < 24 || sscanf(name, "%20llu%n", &value, &end) != 1 || end != 20 || value == 0)
        return NULL;
    *base = value;
    return name + end;
}

static int list_names(const char *directory, struct names *names, pd_error *error)
{
    DIR *opened = opendir(directory);
    if (opened == NULL)
        return pd_fail_errno(error, "cannot open the directory", directory);
    int rc = PD_OK;
    for (struct dirent *entry; rc == PD_OK && (entry = readdir(opened)) != NULL;) {
        uint64_t base;
        const char *suffix = segment_name(entry->d_name, &base);
        bool packed = suffix != NULL && strcmp(suffix, PD_PACKED) == 0;
        if (suffix != NULL && strcmp(suffix, PD_PACKED PD_NEW) == 0) {
            if (unlinkat(dirfd(opened), entry->d_name, 0) != 0)
                rc = pd_fail_errno(error, "cannot remove what is left in", directory);
        } else if (packed || (suffix != NULL && strcmp(suffix, PD_PLAIN) == 0)) {
            if (pd_reserve((void **)&names->items, &names->capacity, names->count + 1, sizeof *names->items))
                names->items[names->count++] = (struct name){base, packed};
            else
                rc = pd_fail(error, PD_LIMIT_REACHED, "no memory for the segments of %.300s", directory);
        }
    }
    closedir(opened);
    if (names->count > 1)
        qsort(names->items, names->count, sizeof *names->items, compare_names);
    return rc;
}

/* Finish what a crash left of segments that were to go, and of those that were being compressed. */
static int remove_gone(const struct pd_log *log, const struct pd_erasures *erasures, struct names *names,
                       pd_error *error)
{
    size_t kept = 0;
    for (size_t i = 0; i < names->count; i++) {
        struct name name = names->items[i];
        bool twice = kept > 0 && names->items[kept - 1].base == name.base;
        if (!twice && !pd_erasures_gone(erasures, name.base)) {
            names->items[kept++] = name;
            continue;
        }
        int rc = pd_log_unlink(log, name.base, name.packed ? PD_PACKED : PD_PLAIN, error);
        if (rc != PD_OK)
            return rc;
    }
    names->count = kept;
    return PD_OK;
}

static int open_segment(struct pd_log *log, const struct name *name, struct pd_segment **segment, pd_error *error)
{
    if (!name->packed) {
        int rc = pd_segment_open(log->directory, name->base, pd_log_segment_limit(&log->options), segment, error);
        if (rc == PD_OK)
            (*segment)->size = (*segment)->synced = (*segment)->allocated;
        return rc;
    }
    int rc = pd_segment_open_packed(log->directory, name->base, &log->frames, segment, error);
    if (rc != PD_OK)
        return rc;
    log->epoch = pd_max64(log->epoch, (*segment)->packed->header.epoch);
    log->newest_time_ns = pd_max64(log->newest_time_ns, (*segment)->newest_time_ns);
    return PD_OK;
}

/* All segments as they are on the disk: `size` is that of the file, `last` what the next one's name says and what
 * was removed between them. */
static int open_segments(struct pd_log *log, const struct pd_erasures *erasures, const struct names *names,
                         pd_error *error)
{
    for (size_t i = 0; i < names->count; i++) {
        struct pd_segment *segment;
        uint64_t base = names->items[i].base;
        int rc = open_segment(log, &names->items[i], &segment, error);
        if (rc != PD_OK)
            return rc;
        uint64_t last = i + 1 < names->count ? pd_erasures_last(erasures, base, names->items[i + 1].base) : 0;
        if (segment->packed != NULL && last != 0 && last != segment->last) {
            rc = pd_segment_corrupted(segment, segment->size, error);
            pd_segment_unref(segment);
            return rc;
        }
        if (last != 0)
            segment->last = last;
        if (!pd_log_push(log, segment)) {
            pd_segment_unref(segment);
            return pd_fail(error, PD_LIMIT_REACHED, "no memory for the segments of %.300s", log->directory);
        }
        pd_segment_close_file(segment); /* there may be more segments than files that may be open */
    }
    return PD_OK;
}

/* Whether the segment's first batch is whole; *durable: up to where it says that the log was durable. */
static bool testifies(struct pd_segment *segment, uint64_t *durable)
{
    struct pd_batch_header header;
    if (segment->size == 0 || pd_segment_map(segment, NULL) != PD_OK ||
        !pd_batch_stored(segment->map, segment->size, true, &header) || header.base_sequence != segment->base)
        return false;
    bool known = header.undurable != UINT32_MAX && header.undurable < header.base_sequence;
    *durable = known ? header.base_sequence - 1 - header.undurable : 0;
    return true;
}

/* The first place from offset on that may hold something (a file's holes are skipped), or size. */
static uint64_t next_data(const struct pd_segment *segment, uint64_t offset)
{
    off_t found = lseek(segment->fd, (off_t)offset, SEEK_DATA);
    if (found < 0)
        return errno == ENXIO ? segment->size : offset;
    return pd_max64(offset, (uint64_t)found & ~(uint64_t)7);
}

/* Whether a batch at or behind offset says that the record `expected` had been durable; *data: whether
 * there is anything but zeros. */
static bool claims_durable(const struct pd_segment *segment, uint64_t offset, uint64_t expected, bool *data)
{
    const uint64_t page = 4096;
    struct pd_batch_header header;
    for (uint64_t at = next_data(segment, offset); at + 8 <= segment->size; at += 8) {
        uint64_t word;
        if (at % page == 0)
            at = next_data(segment, at);
        if (at + 8 > segment->size)
            break;
        memcpy(&word, segment->map + at, sizeof word);
        *data = *data || word != 0;
        if ((uint32_t)word != PD_BATCH_MAGIC)
            continue;
        if (!pd_batch_stored(segment->map + at, segment->size - at, true, &header))
            continue;
        if (header.base_sequence > expected && header.base_sequence - 1 - header.undurable >= expected)
            return true;
    }
    return false;
}

/* The bad place's own batch, when its stamp is intact, does not testify about itself. */
static uint64_t behind_torn(const struct pd_segment *segment, uint64_t offset, uint64_t expected)
{
    struct pd_batch_header header;
    bool stamped = pd_batch_stored(segment->map + offset, segment->size - offset, false, &header);
    return stamped && header.base_sequence == expected ? offset + header.length : offset;
}

/* The log ends at `offset` of segment `at`, where `expected` would be: look behind, refuse or cut. */
static int cut(struct pd_log *log, size_t at, uint64_t offset, uint64_t expected, pd_error *error)
{
    struct pd_segment *last = log->segments[at];
    for (size_t i = at; i < log->count; i++) {
        struct pd_segment *segment = log->segments[i];
        uint64_t from = i == at ? offset : 0;
        if (from >= segment->size)
            continue;
        int rc = pd_segment_reopen(segment, error);
        if (rc == PD_OK)
            rc = pd_segment_map(segment, error);
        if (rc != PD_OK)
            return rc;
        uint64_t search = i == at ? behind_torn(segment, offset, expected) : 0;
        bool data = search != from;
        if (claims_durable(segment, search, expected, &data))
            return pd_segment_corrupted(last, offset, error);
        log->cut_bytes += data ? segment->size - from : 0;
    }
    while (log->count > at + 1) {
        struct pd_segment *later = log->segments[--log->count];
        if (unlink(later->path) != 0)
            return pd_fail_errno(error, "cannot remove", later->path);
        pd_segment_unref(later);
    }
    last->size = offset;
    last->last = expected - 1;
    return PD_OK;
}

/* Check every batch of segment `at`: *expected goes in and out, *end is where the last valid one ends. */
static int scan(struct pd_log *log, size_t at, uint64_t *expected, uint64_t *end, pd_error *error)
{
    struct pd_segment *segment = log->segments[at];
    uint64_t offset = 0;
    struct pd_batch_header header;
    if (segment->size > 0) {
        int rc = pd_segment_map(segment, error);
        if (rc != PD_OK)
            return rc;
    }
    segment->mark_count = 0;
    while (offset < segment->size && pd_batch_stored(segment->map + offset, segment->size - offset, true, &header) &&
           header.base_sequence == *expected) {
        if (!pd_segment_mark(segment, offset, &header))
            return pd_fail(error, PD_LIMIT_REACHED, "no memory for the index of %.300s", segment->path);
        if (offset == 0)
            segment->oldest_time_ns = header.append_time_ns;
        segment->newest_time_ns = header.append_time_ns;
        log->newest_time_ns = pd_max64(log->newest_time_ns, header.append_time_ns);
        log->epoch = header.epoch > log->epoch ? header.epoch : log->epoch;
        offset += header.length;
        *expected += header.record_count;
    }
    segment->indexed = true;
    *end = offset;
    return PD_OK;
}

/* Check from segment `from` to the end, cutting where the log ends. */
static int scan_end(struct pd_log *log, size_t from, pd_error *error)
{
    uint64_t expected = log->segments[from]->base;
    for (size_t i = from; i < log->count; i++) {
        struct pd_segment *segment = log->segments[i];
        uint64_t end = 0;
        int rc = scan(log, i, &expected, &end, error);
        if (rc != PD_OK)
            return rc;
        bool last = i + 1 == log->count;
        if (!last && segment->last + 1 == expected) {
            segment->size = end; /* zeros may follow: it was sealed, and not yet cut */
            expected = log->segments[i + 1]->base;
            continue;
        }
        if (!last && segment->last + 1 < expected)
            return pd_segment_corrupted(log->segments[i + 1], 0, error);
        if ((rc = cut(log, i, end, expected, error)) != PD_OK)
            return rc;
    }
    log->last_sequence = expected - 1;
    return PD_OK;
}

/* Cut the files of what was scanned, and make them durable: the daemon may have died with pages that the
 * system still holds. Only the active segment's file stays open. */
static int settle(struct pd_log *log, size_t from, pd_error *error)
{
    for (size_t i = from; i < log->count; i++) {
        struct pd_segment *segment = log->segments[i];
        int rc = pd_segment_reopen(segment, error);
        if (rc == PD_OK && segment->size != segment->allocated)
            rc = pd_segment_trim(segment, error);
        if (rc == PD_OK)
            rc = pd_segment_sync(segment, error);
        if (rc != PD_OK)
            return rc;
        segment->synced = segment->size;
        if (i + 1 < log->count)
            pd_segment_close_file(segment);
    }
    return pd_sync_directory(log->directory, error);
}

/* A segment to write to: that is never a compressed one. */
static int add_segment(struct pd_log *log, uint64_t base, pd_error *error)
{
    struct pd_segment *segment;
    int rc = pd_segment_create(log->directory, base, pd_log_segment_limit(&log->options), &segment, error);
    if (rc == PD_OK && !pd_log_push(log, segment)) {
        pd_segment_unref(segment);
        rc = pd_fail(error, PD_LIMIT_REACHED, "no memory for the segments of %.300s", log->directory);
    }
    return rc == PD_OK ? pd_sync_directory(log->directory, error) : rc;
}

/* Where scanning begins: at the first record that the newest segment with a whole beginning does not call durable. */
static size_t scan_from(const struct pd_log *log)
{
    size_t from = log->count - 1;
    uint64_t durable = 0;
    while (from > 0 && log->segments[from - 1]->packed == NULL && !testifies(log->segments[from], &durable))
        from--;
    while (from > 0 && log->segments[from - 1]->packed == NULL && log->segments[from]->base > durable + 1)
        from--;
    return from;
}

static int recover_segments(struct pd_log *log, pd_error *error)
{
    const struct pd_segment *newest = log->segments[log->count - 1];
    int rc = newest->packed != NULL ? add_segment(log, newest->last + 1, error) : PD_OK;
    if (rc != PD_OK)
        return rc;
    size_t from = scan_from(log);
    rc = scan_end(log, from, error);
    return rc == PD_OK ? settle(log, from, error) : rc;
}

int pd_log_recover(struct pd_log *log, pd_error *error)
{
    struct pd_erasures erasures;
    struct names names = {0};
    int rc = pd_erasures_load(log, &erasures, error);
    if (rc == PD_OK)
        rc = list_names(log->directory, &names, error);
    if (rc == PD_OK)
        rc = remove_gone(log, &erasures, &names, error);
    if (rc == PD_OK)
        rc = open_segments(log, &erasures, &names, error);
    free(names.items);
    if (rc == PD_OK)
        rc = log->count > 0 ? recover_segments(log, error) : add_segment(log, 1, error);
    if (rc == PD_OK)
        rc = pd_erasures_apply(log, &erasures, error);
    pd_erasures_fini(&erasures);
    if (rc != PD_OK)
        return rc;
    log->epoch++;
    log->durable_sequence = log->last_sequence;
    for (size_t i = 0; i < log->count; i++)
        log->bytes += pd_segment_stored(log->segments[i]);
    return PD_OK;
}
