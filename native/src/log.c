/* A stream's log: appending, group commit, retention. Recovery is in recover.c, reading in reader.c.
 *
 * Sequences: a batch takes record_count of them from last_sequence + 1. `durable_sequence` follows behind:
 * the commit thread syncs all that was appended when it began, without the lock, and then moves it. Each
 * batch is stamped with how far behind it was (`undurable`), which is what lets recovery tell a torn tail,
 * which nobody was promised, from damage.
 *
 * After a failed fdatasync the kernel may have dropped the dirty pages and call them clean; a second
 * fdatasync would succeed and mean nothing. So the first failure is final until the log is opened again,
 * which reads what is really there.
 */
#include "log.h"

#include "erasure.h"
#include "letters.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* A stream limited to max_bytes has at least this many segments, or dropping one would lose too much. */
#define SEGMENTS_IN_LIMIT 4
#define SEGMENT_MIN       ((uint64_t)4 << 10)

uint64_t pd_log_segment_limit(const struct pd_log_options *options)
{
    return pd_max64(options->segment_size,
                    options->max_batch + PD_LETTER_ROOM); /* dead letters have more than their record */
}

static uint64_t segment_size(const struct pd_log *log)
{
    uint64_t size = log->options.segment_size;
    if (log->options.max_bytes != 0)
        size = pd_min64(size, pd_max64(log->options.max_bytes / SEGMENTS_IN_LIMIT, SEGMENT_MIN));
    return size;
}

bool pd_log_push(struct pd_log *log, struct pd_segment *segment)
{
    if (!pd_reserve((void **)&log->segments, &log->capacity, log->count + 1, sizeof(struct pd_segment *)))
        return false;
    log->segments[log->count++] = segment;
    return true;
}

int pd_log_open(struct pd_log *log, const char *directory, const struct pd_log_options *options, pd_error *error)
{
    *log = (struct pd_log){.options = *options, .sealed = true};
    pd_frames_init(&log->frames, options->pool);
    if (strlen(directory) >= PD_PATH_MAX - 32)
        return pd_fail(error, PD_INVALID, "the path of the log %.300s is too long", directory);
    log->directory = strdup(directory);
    if (log->directory == NULL)
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for the log %.300s", directory);
    int rc = pd_log_recover(log, error);
    if (rc != PD_OK) {
        log->failed = true;
        pd_log_close(log);
    }
    return rc;
}

void pd_log_close(struct pd_log *log)
{
    for (size_t i = 0; i < log->count; i++) {
        struct pd_segment *segment = log->segments[i];
        if (segment->fd >= 0 && !log->failed) {
            pd_segment_trim(segment, NULL);
            pd_segment_sync(segment, NULL);
        }
        pd_segment_unref(segment);
    }
    if (log->grown && !log->failed)
        pd_sync_directory(log->directory, NULL);
    if (log->erasures != NULL)
        pd_journal_close(log->erasures);
    free(log->erasures);
    free(log->segments);
    free(log->directory);
    log->erasures = NULL;
    log->segments = NULL;
    log->directory = NULL;
    log->count = log->capacity = 0;
}

void pd_log_configure(struct pd_log *log, uint64_t max_age_ns, uint64_t max_bytes)
{
    log->options.max_age_ns = max_age_ns;
    log->options.max_bytes = max_bytes;
}

int pd_log_seal(struct pd_log *log, pd_error *error)
{
    struct pd_segment *active = log->segments[log->count - 1];
    int rc = pd_segment_trim(active, error);
    if (rc != PD_OK)
        return rc;
    struct pd_segment *next;
    uint64_t limit = pd_log_segment_limit(&log->options);
    if ((rc = pd_segment_create(log->directory, log->last_sequence + 1, limit, &next, error)) != PD_OK)
        return rc;
    if (!pd_log_push(log, next)) {
        unlink(next->path);
        pd_segment_unref(next);
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for one more segment of %.300s", log->directory);
    }
    log->grown = true;
    log->sealed = true;
    log->hollow = log->hollow || (active->erased.count > 0 && active->erased.count == active->last + 1 - active->base);
    if (active->synced == active->size) /* else pd_log_sync_end closes it */
        pd_segment_close_file(active);
    return PD_OK;
}

/* Begin a new segment when the active one is full, or so old that keeping it together with what comes would
 * keep its records for twice their age. */
static int roll(struct pd_log *log, uint64_t length, uint64_t now_ns, pd_error *error)
{
    const struct pd_segment *active = log->segments[log->count - 1];
    uint64_t age = log->options.max_age_ns;
    bool old = age != 0 && active->oldest_time_ns != 0 && pd_add_saturating(active->oldest_time_ns, age) < now_ns;
    if (active->size == 0 || (active->size + length <= segment_size(log) && !old))
        return PD_OK;
    return pd_log_seal(log, error);
}

int pd_log_append(struct pd_log *log, struct pd_batch_header *header, const uint8_t *body, uint64_t now_ns,
                  pd_error *error)
{
    if (log->failed)
        return pd_fail(error, PD_IO_ERROR,
                       "the log %.300s failed to reach the disk; it takes nothing until it is "
                       "opened again",
                       log->directory);
    uint64_t time_ns = pd_max64(now_ns, log->newest_time_ns);
    int rc = roll(log, header->length, time_ns, error);
    if (rc != PD_OK)
        return rc;
    header->base_sequence = log->last_sequence + 1;
    header->append_time_ns = time_ns;
    header->epoch = log->epoch;
    header->undurable = (uint32_t)pd_min64(log->last_sequence - log->durable_sequence, UINT32_MAX);
    pd_batch_stamp(header);
    bool damaged = false;
    rc = pd_segment_append(log->segments[log->count - 1], header, body, &damaged, error);
    log->failed = damaged;
    if (rc != PD_OK)
        return rc;
    log->last_sequence += header->record_count;
    log->kept += header->record_count;
    log->newest_time_ns = time_ns;
    log->bytes += header->length;
    return PD_OK;
}

void pd_log_sync_begin(struct pd_log *log, struct pd_log_sync *sync)
{
    sync->count = 0;
    sync->sequence = log->durable_sequence;
    sync->new_in[0] = 0;
    if (log->grown)
        strcpy(sync->new_in, log->directory);
    log->grown = false;
    for (size_t i = 0; i < log->count && sync->count < PD_SYNC_SEGMENTS; i++) {
        struct pd_segment *segment = log->segments[i];
        if (segment->fd < 0 || segment->synced == segment->size)
            continue;
        segment->references++;
        sync->segments[sync->count] = segment;
        sync->sizes[sync->count++] = segment->size;
        sync->sequence = segment->last;
    }
}

int pd_log_sync_run(const struct pd_log_sync *sync, pd_error *error)
{
    if (sync->new_in[0] != 0 && pd_sync_directory(sync->new_in, error) != PD_OK)
        return PD_IO_ERROR;
    for (size_t i = 0; i < sync->count; i++) {
        int rc = pd_segment_sync(sync->segments[i], error);
        if (rc != PD_OK)
            return rc;
    }
    return PD_OK;
}

void pd_log_sync_end(struct pd_log *log, struct pd_log_sync *sync, int rc)
{
    const struct pd_segment *active = log->count > 0 ? log->segments[log->count - 1] : NULL;
    for (size_t i = 0; i < sync->count; i++) {
        struct pd_segment *segment = sync->segments[i];
        segment->synced = rc == PD_OK ? sync->sizes[i] : segment->synced;
        if (segment != active && segment->synced == segment->size)
            pd_segment_close_file(segment);
        pd_segment_unref(segment);
    }
    if (rc != PD_OK)
        log->failed = true;
    else
        log->durable_sequence = pd_max64(log->durable_sequence, sync->sequence);
}

uint64_t pd_log_first_sequence(const struct pd_log *log)
{
    return log->first;
}

bool pd_log_oldest_expired(struct pd_log *log, uint64_t now_ns)
{
    if (log->count < 2)
        return false;
    if (log->options.max_bytes != 0 && pd_log_kept_bytes(log) > log->options.max_bytes)
        return true;
    return pd_log_oldest_expires_ns(log) < now_ns;
}

uint64_t pd_log_oldest_expires_ns(struct pd_log *log)
{
    if (log->count < 2 || log->options.max_age_ns == 0 || pd_segment_times(log->segments[0], NULL) != PD_OK)
        return UINT64_MAX;
    return pd_add_saturating(log->segments[0]->newest_time_ns, log->options.max_age_ns);
}

int pd_log_unlink(const struct pd_log *log, uint64_t base, const char *suffix, pd_error *error)
{
    char path[PD_PATH_MAX];
    pd_segment_path(path, log->directory, base, suffix);
    return unlink(path) == 0 || errno == ENOENT ? PD_OK : pd_fail_errno(error, "cannot remove", path);
}

int pd_log_drop(struct pd_log *log, size_t at, struct pd_segment **dropped, pd_error *error)
{
    struct pd_segment *segment = log->segments[at];
    int rc = segment->twin ? pd_log_unlink(log, segment->base, PD_PACKED, error) : PD_OK;
    if (rc != PD_OK)
        return rc;
    if (unlink(segment->path) != 0 && errno != ENOENT)
        return pd_fail_errno(error, "cannot remove", segment->path);
    if (segment->packed != NULL)
        pd_packed_detach(segment->packed);
    segment->twin = false;
    log->bytes -= pd_segment_stored(segment);
    log->erased -= segment->erased.count;
    log->kept -= segment->last + 1 - segment->base - segment->erased.count;
    log->count--;
    memmove(log->segments + at, log->segments + at + 1, (log->count - at) * sizeof *log->segments);
    log->gaps = false;
    for (size_t i = 1; i < log->count; i++)
        log->gaps = log->gaps || log->segments[i - 1]->last + 1 < log->segments[i]->base;
    log->first = pd_log_next_kept(log, pd_max64(log->first, log->segments[0]->base));
    if (segment->references > 1) { /* a sync is under way; whoever runs it comes back with the lock */
        pd_segment_unref(segment);
        return PD_OK;
    }
    segment->next = *dropped;
    *dropped = segment;
    return PD_OK;
}

int pd_log_delete(const char *directory, pd_error *error)
{
    DIR *opened = opendir(directory);
    if (opened == NULL)
        return errno == ENOENT ? PD_OK : pd_fail_errno(error, "cannot open the directory", directory);
    int rc = PD_OK;
    for (struct dirent *entry; rc == PD_OK && (entry = readdir(opened)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        if (unlinkat(dirfd(opened), entry->d_name, 0) != 0 && errno != ENOENT)
            rc = pd_fail_errno(error, "cannot remove what is in", directory);
    }
    closedir(opened);
    if (rc == PD_OK && rmdir(directory) != 0)
        rc = pd_fail_errno(error, "cannot remove the directory", directory);
    return rc;
}

struct pd_segment *pd_log_segment(const struct pd_log *log, uint64_t sequence)
{
    if (log->count == 0 || sequence < log->segments[0]->base || sequence > log->last_sequence)
        return NULL;
    size_t low = 0;
    size_t high = log->count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (log->segments[middle]->base <= sequence)
            low = middle;
        else
            high = middle;
    }
    return sequence <= log->segments[low]->last ? log->segments[low] : NULL;
}
