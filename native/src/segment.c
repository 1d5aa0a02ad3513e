/* One file of a stream's log.
 *
 * The file grows by fallocate ahead of the writes, in steps that double up to STEP_MAX: fdatasync then has
 * no new length to make durable (measured: a third less time), and a small stream takes little disk.
 * What was allocated and not written reads as zeros, which is no batch. Sealing and closing cut it off.
 *
 * Written with pwrite, read through one shared mapping that is as long as the file may become; reads never
 * go beyond `size`, so what lies behind the file's end is never touched. (Measured at 64 KiB and more:
 * writing through a fresh mapping is slower because of its page faults.)
 *
 * A sealed segment can be replaced by a compressed one (packed.c). Offsets stay those that they were; but each part
 * must be loaded before it is looked at (pd_segment_load), which a mapped file never needed.
 */
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define STEP_MIN  ((uint64_t)64 << 10)
#define STEP_MAX  ((uint64_t)8 << 20)
#define MARK_STEP ((uint64_t)64 << 10)

void pd_segment_path(char *path, const char *directory, uint64_t base, const char *suffix)
{
    snprintf(path, PD_PATH_MAX, "%s/%020llu%s", directory, (unsigned long long)base, suffix);
}

static struct pd_segment *segment_new(const char *path, uint64_t base, uint64_t limit, pd_error *error)
{
    struct pd_segment *made = calloc(1, sizeof *made);
    if (made == NULL || (made->path = strdup(path)) == NULL) {
        free(made);
        pd_fail(error, PD_LIMIT_REACHED, "no memory for %.300s", path);
        return NULL;
    }
    made->base = base;
    made->last = base - 1;
    made->limit = limit;
    made->references = 1;
    made->fd = -1;
    return made;
}

static int segment_file(const char *directory, uint64_t base, uint64_t limit, int flags, struct pd_segment **segment,
                        pd_error *error)
{
    char path[PD_PATH_MAX];
    pd_segment_path(path, directory, base, PD_PLAIN);
    struct pd_segment *made = segment_new(path, base, limit, error);
    if (made == NULL)
        return PD_LIMIT_REACHED;
    made->fd = open(path, flags | O_RDWR | O_CLOEXEC, 0640);
    struct stat about;
    if (made->fd < 0 || fstat(made->fd, &about) != 0) {
        int rc = pd_fail_errno(error, "cannot open", path);
        pd_segment_unref(made);
        return rc;
    }
    made->allocated = (uint64_t)about.st_size;
    *segment = made;
    return PD_OK;
}

int pd_segment_create(const char *directory, uint64_t base, uint64_t limit, struct pd_segment **segment,
                      pd_error *error)
{
    int rc = segment_file(directory, base, limit, O_CREAT | O_EXCL, segment, error);
    if (rc != PD_OK)
        return rc;
    (*segment)->indexed = true;
    return PD_OK;
}

int pd_segment_open(const char *directory, uint64_t base, uint64_t limit, struct pd_segment **segment, pd_error *error)
{
    return segment_file(directory, base, limit, 0, segment, error);
}

int pd_segment_open_packed(const char *directory, uint64_t base, struct pd_frames *frames, struct pd_segment **segment,
                           pd_error *error)
{
    char path[PD_PATH_MAX];
    pd_segment_path(path, directory, base, PD_PACKED);
    struct pd_segment *made = segment_new(path, base, 0, error);
    int rc = made != NULL ? pd_packed_open(path, base, frames, &made->packed, error) : PD_LIMIT_REACHED;
    if (rc != PD_OK) {
        if (made != NULL)
            pd_segment_unref(made);
        return rc;
    }
    const struct pd_packed_header *header = &made->packed->header;
    made->last = header->last_sequence;
    made->size = made->synced = made->allocated = made->limit = header->size;
    made->oldest_time_ns = header->oldest_time_ns;
    made->newest_time_ns = header->newest_time_ns;
    *segment = made;
    return PD_OK;
}

void pd_segment_replace(struct pd_segment *segment, struct pd_packed *packed, void **old_map)
{
    *old_map = (void *)(uintptr_t)segment->map;
    segment->map = NULL;
    pd_segment_close_file(segment);
    segment->packed = packed;
    segment->twin = false;
    char *path = segment->path; /* of the same length */
    memcpy(path + strlen(path) - strlen(PD_PLAIN), PD_PACKED, strlen(PD_PACKED));
}

void pd_segment_unref(struct pd_segment *segment)
{
    if (--segment->references > 0)
        return;
    if (segment->packed != NULL)
        pd_packed_free(segment->packed);
    else if (segment->map != NULL)
        munmap((void *)(uintptr_t)segment->map, segment->map_length);
    pd_segment_close_file(segment);
    free(segment->marks);
    pd_bitmap_fini(&segment->erased);
    free(segment->path);
    free(segment);
}

/* Ahead of the write; that it cannot be had is not an error, the write itself will tell. */
static void allocate(struct pd_segment *segment, uint64_t needed)
{
    if (needed <= segment->allocated)
        return;
    uint64_t step = needed < STEP_MIN ? STEP_MIN : pd_min64(needed, STEP_MAX);
    uint64_t wanted = pd_max64(needed, pd_min64(needed + step, segment->limit));
    if (fallocate(segment->fd, 0, 0, (off_t)wanted) == 0)
        segment->allocated = wanted;
}

static bool write_all(int fd, struct iovec *parts, int count, uint64_t offset)
{
    while (count > 0) {
        ssize_t written = pwritev(fd, parts, count, (off_t)offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            errno = written == 0 ? ENOSPC : errno;
            return false;
        }
        offset += (uint64_t)written;
        for (size_t left = (size_t)written; count > 0 && left >= parts->iov_len; parts++, count--)
            left -= parts->iov_len, written = (ssize_t)left;
        if (count > 0) {
            parts->iov_base = (uint8_t *)parts->iov_base + written;
            parts->iov_len -= (size_t)written;
        }
    }
    return true;
}

int pd_segment_append(struct pd_segment *segment, const struct pd_batch_header *header, const uint8_t *body,
                      bool *damaged, pd_error *error)
{
    struct iovec parts[2] = {
        {(void *)(uintptr_t)header, PD_BATCH_HEADER},
        {(void *)(uintptr_t)body, header->length - PD_BATCH_HEADER},
    };
    allocate(segment, segment->size + header->length);
    if (!write_all(segment->fd, parts, 2, segment->size)) {
        int rc = pd_fail_errno(error, "cannot append to", segment->path);
        segment->allocated = segment->size;
        *damaged = ftruncate(segment->fd, (off_t)segment->size) != 0;
        return rc;
    }
    if (!pd_segment_mark(segment, segment->size, header)) {
        segment->allocated = segment->size;
        *damaged = ftruncate(segment->fd, (off_t)segment->size) != 0;
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for the index of %.300s", segment->path);
    }
    segment->size += header->length;
    segment->allocated = pd_max64(segment->allocated, segment->size);
    segment->last = header->base_sequence + header->record_count - 1;
    segment->newest_time_ns = header->append_time_ns;
    if (segment->oldest_time_ns == 0)
        segment->oldest_time_ns = header->append_time_ns;
    return PD_OK;
}

int pd_segment_trim(struct pd_segment *segment, pd_error *error)
{
    if (ftruncate(segment->fd, (off_t)segment->size) != 0)
        return pd_fail_errno(error, "cannot cut", segment->path);
    segment->allocated = segment->size;
    return PD_OK;
}

int pd_segment_sync(struct pd_segment *segment, pd_error *error)
{
    if (fdatasync(segment->fd) == 0)
        return PD_OK;
    pd_fail_errno(error, "cannot sync", segment->path);
    return PD_IO_ERROR;
}

int pd_segment_reopen(struct pd_segment *segment, pd_error *error)
{
    if (segment->fd < 0)
        segment->fd = open(segment->path, O_RDWR | O_CLOEXEC);
    return segment->fd >= 0 ? PD_OK : pd_fail_errno(error, "cannot open", segment->path);
}

void pd_segment_close_file(struct pd_segment *segment)
{
    if (segment->fd >= 0)
        close(segment->fd);
    segment->fd = -1;
}

int pd_segment_map(struct pd_segment *segment, pd_error *error)
{
    if (segment->map != NULL)
        return PD_OK;
    bool closed = segment->fd < 0;
    int rc = pd_segment_reopen(segment, error);
    if (rc != PD_OK)
        return rc;
    size_t length = pd_max64(segment->limit, segment->allocated);
    void *map = mmap(NULL, length, PROT_READ, MAP_SHARED, segment->fd, 0);
    if (map == MAP_FAILED) {
        rc = pd_fail_errno(error, "cannot map", segment->path);
    } else {
        segment->map = map;
        segment->map_length = length;
    }
    if (closed)
        pd_segment_close_file(segment);
    return rc;
}

bool pd_segment_mark(struct pd_segment *segment, uint64_t offset, const struct pd_batch_header *header)
{
    bool near = segment->mark_count > 0 && offset - segment->marks[segment->mark_count - 1].offset < MARK_STEP;
    if (near)
        return true;
    if (!pd_reserve((void **)&segment->marks, &segment->mark_capacity, segment->mark_count + 1, sizeof *segment->marks))
        return false;
    segment->marks[segment->mark_count++] = (struct pd_mark){header->base_sequence, offset};
    return true;
}

int pd_segment_corrupted(const struct pd_segment *segment, uint64_t offset, pd_error *error)
{
    return pd_fail(error, PD_CORRUPTED, "the log is damaged: no valid batch at offset %llu of %.300s",
                   (unsigned long long)offset, segment->path);
}

int pd_segment_load(struct pd_segment *segment, uint64_t offset, uint64_t length, pd_error *error)
{
    if (segment->packed == NULL)
        return pd_segment_map(segment, error);
    length = pd_min64(length, segment->size - offset);
    int rc = length > 0 ? pd_packed_load(segment->packed, offset, length, error) : PD_OK;
    segment->map = segment->packed->map;
    return rc;
}

int pd_segment_batch(struct pd_segment *segment, uint64_t offset, bool body_too, struct pd_batch_header *header,
                     pd_error *error)
{
    bool packed = segment->packed != NULL;
    uint64_t room = segment->size - pd_min64(offset, segment->size);
    int rc = room > 0 ? pd_segment_load(segment, offset, PD_BATCH_HEADER, error)
                      : pd_segment_corrupted(segment, offset, error);
    if (rc != PD_OK)
        return rc;
    bool valid = pd_batch_stored(segment->map + offset, room, body_too && !packed, header);
    if (valid && body_too && packed) {
        if ((rc = pd_segment_load(segment, offset, header->length, error)) != PD_OK)
            return rc;
        valid = pd_batch_stored(segment->map + offset, room, true, header);
    }
    return valid ? PD_OK : pd_segment_corrupted(segment, offset, error);
}

/* From a batch's offset to the next one's, by headers alone. */
static int hop(struct pd_segment *segment, uint64_t offset, uint64_t expected, struct pd_batch_header *header,
               pd_error *error)
{
    int rc = pd_segment_batch(segment, offset, false, header, error);
    if (rc == PD_OK && header->base_sequence != expected)
        rc = pd_segment_corrupted(segment, offset, error);
    return rc;
}

/* From the index in its file: one mark for each frame that a batch begins in. */
static int index_packed(struct pd_segment *segment, pd_error *error)
{
    int rc = pd_packed_index(segment->packed, error);
    if (rc != PD_OK)
        return rc;
    uint32_t count = segment->packed->header.frame_count;
    if (!pd_reserve((void **)&segment->marks, &segment->mark_capacity, count, sizeof *segment->marks))
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for the index of %.300s", segment->path);
    segment->mark_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct pd_packed_entry *entry = &segment->packed->entries[i];
        if (entry->first != PD_PACKED_NO_BATCH)
            segment->marks[segment->mark_count++] = (struct pd_mark){entry->sequence, i * PD_FRAME_SIZE + entry->first};
    }
    segment->indexed = true;
    return PD_OK;
}

static int build_index(struct pd_segment *segment, pd_error *error)
{
    uint64_t expected = segment->base;
    if (segment->packed != NULL)
        return index_packed(segment, error);
    segment->mark_count = 0;
    for (uint64_t offset = 0; offset < segment->size;) {
        struct pd_batch_header header;
        int rc = hop(segment, offset, expected, &header, error);
        if (rc != PD_OK)
            return rc;
        if (!pd_segment_mark(segment, offset, &header))
            return pd_fail(error, PD_LIMIT_REACHED, "no memory for the index of %.300s", segment->path);
        if (offset == 0)
            segment->oldest_time_ns = header.append_time_ns;
        segment->newest_time_ns = header.append_time_ns;
        expected += header.record_count;
        offset += header.length;
    }
    if (expected != segment->last + 1)
        return pd_segment_corrupted(segment, segment->size, error);
    segment->indexed = true;
    return PD_OK;
}

const struct pd_mark *pd_segment_mark_before(const struct pd_segment *segment, uint64_t sequence)
{
    size_t low = 0;
    size_t high = segment->mark_count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (segment->marks[middle].sequence <= sequence)
            low = middle;
        else
            high = middle;
    }
    return &segment->marks[low];
}

int pd_segment_find(struct pd_segment *segment, uint64_t sequence, uint64_t *offset, pd_error *error)
{
    int rc = segment->packed == NULL ? pd_segment_map(segment, error) : PD_OK;
    if (rc == PD_OK && !segment->indexed)
        rc = build_index(segment, error);
    if (rc != PD_OK)
        return rc;
    struct pd_mark at = *pd_segment_mark_before(segment, sequence);
    for (;;) {
        struct pd_batch_header header;
        if ((rc = hop(segment, at.offset, at.sequence, &header, error)) != PD_OK)
            return rc;
        if (sequence < at.sequence + header.record_count)
            break;
        at.sequence += header.record_count;
        at.offset += header.length;
    }
    *offset = at.offset;
    return PD_OK;
}

int pd_segment_times(struct pd_segment *segment, pd_error *error)
{
    if (segment->newest_time_ns != 0 || segment->size == 0)
        return PD_OK;
    int rc = pd_segment_map(segment, error);
    return rc == PD_OK ? build_index(segment, error) : rc;
}
