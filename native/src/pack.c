/* Writing the compressed file of one sealed segment.
 *
 * What is to be compressed is checked first, batch by batch, so that damage stays where readers and people find it.
 * Each frame is decompressed again and compared before it is written: afterwards the original is removed.
 *
 * A segment that would not become SAVED_SHARE smaller stays as it is, since reading it is then cheaper; that is known
 * after the first TRIAL bytes. Nothing is begun unless the disk has room for the segment twice: compressing must not
 * take the room of what is published.
 */
#include "pack.h"

#include "batch.h"
#include "crc32c.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SAVED_SHARE 20 /* one part in so many */
#define TRIAL       ((uint64_t)4 << 20)

/* One file under way. */
struct packing {
    const struct pd_pack_job *job;
    struct pd_pack_tools *tools;
    const uint8_t *plain;
    uint64_t batch; /* where the next one begins */
    uint64_t sequence;
    struct pd_packed_header header;
    struct pd_packed_entry *entries;
    int fd;
    pd_error *error;
};

int pd_pack_tools_init(struct pd_pack_tools *tools, const struct pd_zstd *zstd, pd_error *error)
{
    *tools = (struct pd_pack_tools){.zstd = zstd, .bound = zstd->ZSTD_compressBound(PD_FRAME_SIZE)};
    tools->compressor = zstd->ZSTD_createCCtx();
    tools->decompressor = zstd->ZSTD_createDCtx();
    tools->frame = malloc(tools->bound);
    tools->again = malloc(PD_FRAME_SIZE);
    if (tools->compressor != NULL && tools->decompressor != NULL && tools->frame != NULL && tools->again != NULL)
        return PD_OK;
    pd_pack_tools_fini(tools);
    return pd_fail(error, PD_LIMIT_REACHED, "no memory to compress");
}

void pd_pack_tools_fini(struct pd_pack_tools *tools)
{
    if (tools->compressor != NULL)
        tools->zstd->ZSTD_freeCCtx(tools->compressor);
    if (tools->decompressor != NULL)
        tools->zstd->ZSTD_freeDCtx(tools->decompressor);
    free(tools->frame);
    free(tools->again);
    *tools = (struct pd_pack_tools){0};
}

static enum pd_packing damaged(const struct packing *packing, uint64_t offset)
{
    pd_fail(packing->error, PD_CORRUPTED, "the log is damaged: no valid batch at offset %llu of %.300s",
            (unsigned long long)offset, packing->job->source);
    return PD_PACK_DAMAGED;
}

static enum pd_packing failed(const struct packing *packing, const char *what)
{
    pd_fail_errno(packing->error, what, packing->job->target);
    return PD_PACK_FAILED;
}

static bool count_ids(struct packing *packing, const uint8_t *batch, const struct pd_batch_header *header)
{
    size_t at = header->records_offset;
    for (uint32_t i = 0; i < header->record_count; i++) {
        struct pd_record record;
        if (!pd_record_load(batch + at, header->length - at, &record))
            return false;
        packing->header.id_count += record.id_length > 0;
        at += record.length;
    }
    return true;
}

/* Check the batches that begin in the frame, and note the first of them. */
static bool walk_batches(struct packing *packing, struct pd_packed_entry *entry, uint64_t begin, uint64_t end)
{
    struct pd_packed_header *packed = &packing->header;
    entry->first = PD_PACKED_NO_BATCH;
    while (packing->batch < end) {
        struct pd_batch_header header;
        const uint8_t *batch = packing->plain + packing->batch;
        if (!pd_batch_stored(batch, packing->job->size - packing->batch, true, &header) ||
            header.base_sequence != packing->sequence || !count_ids(packing, batch, &header))
            return false;
        if (entry->first == PD_PACKED_NO_BATCH) {
            entry->first = (uint32_t)(packing->batch - begin);
            entry->sequence = header.base_sequence;
        }
        if (packing->batch == 0)
            packed->oldest_time_ns = header.append_time_ns;
        packed->newest_time_ns = header.append_time_ns;
        packed->epoch = header.epoch;
        packing->sequence += header.record_count;
        packing->batch += header.length;
    }
    return true;
}

static bool write_whole(int fd, const void *data, size_t length, uint64_t offset)
{
    while (length > 0) {
        ssize_t written = pwrite(fd, data, length, (off_t)offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            errno = written == 0 ? ENOSPC : errno;
            return false;
        }
        data = (const uint8_t *)data + written;
        length -= (size_t)written;
        offset += (uint64_t)written;
    }
    return true;
}

static enum pd_packing write_frame(struct packing *packing, struct pd_packed_entry *entry, const uint8_t *plain,
                                   size_t size)
{
    struct pd_pack_tools *tools = packing->tools;
    const struct pd_zstd *zstd = tools->zstd;
    size_t length = zstd->ZSTD_compressCCtx(tools->compressor, tools->frame, tools->bound, plain, size, PD_PACK_LEVEL);
    if (zstd->ZSTD_isError(length) != 0) {
        pd_fail(packing->error, PD_LIMIT_REACHED, "zstd cannot compress %.300s: %s", packing->job->source,
                zstd->ZSTD_getErrorName(length));
        return PD_PACK_FAILED;
    }
    size_t again = zstd->ZSTD_decompressDCtx(tools->decompressor, tools->again, size, tools->frame, length);
    if (again != size || memcmp(tools->again, plain, size) != 0) {
        pd_fail(packing->error, PD_IO_ERROR, "%.300s does not come out of zstd as it went in: is the memory faulty?",
                packing->job->source);
        return PD_PACK_FAILED;
    }
    entry->offset = packing->header.stored;
    entry->length = (uint32_t)length;
    entry->crc = pd_crc32c(0, tools->frame, length);
    if (!write_whole(packing->fd, tools->frame, length, entry->offset))
        return failed(packing, "cannot write");
    /* Begin to write it out now: one large sync at the end would hold up those of the commit thread. */
    sync_file_range(packing->fd, (off_t)entry->offset, (off_t)length, SYNC_FILE_RANGE_WRITE);
    packing->header.stored += length;
    return PD_PACK_DONE;
}

static enum pd_packing write_frames(struct packing *packing, const atomic_bool *cancel)
{
    const struct pd_pack_job *job = packing->job;
    enum pd_packing outcome = PD_PACK_DONE;
    for (uint32_t i = 0; outcome == PD_PACK_DONE && i < packing->header.frame_count; i++) {
        uint64_t begin = i * PD_FRAME_SIZE;
        uint64_t end = pd_min64(begin + PD_FRAME_SIZE, job->size);
        if (atomic_load(cancel))
            return PD_PACK_CANCELLED;
        if (!walk_batches(packing, &packing->entries[i], begin, end))
            return damaged(packing, packing->batch);
        outcome = write_frame(packing, &packing->entries[i], packing->plain + begin, (size_t)(end - begin));
        uint64_t index = (uint64_t)(i + 1) * PD_PACKED_ENTRY;
        bool told = end >= TRIAL || end == job->size;
        if (outcome == PD_PACK_DONE && told && packing->header.stored + index > end - end / SAVED_SHARE)
            return PD_PACK_USELESS;
    }
    if (outcome == PD_PACK_DONE && (packing->batch != job->size || packing->sequence != job->last + 1))
        return damaged(packing, pd_min64(packing->batch, job->size));
    return outcome;
}

/* The header last: before it, the file is none. */
static enum pd_packing write_index(struct packing *packing)
{
    struct pd_packed_header *header = &packing->header;
    size_t length = (size_t)header->frame_count * sizeof *packing->entries;
    header->index_crc = pd_crc32c(0, (const uint8_t *)packing->entries, length);
    if (!write_whole(packing->fd, packing->entries, length, header->stored))
        return failed(packing, "cannot write");
    header->stored += length;
    header->header_crc = pd_packed_header_crc(header);
    if (!write_whole(packing->fd, header, sizeof *header, 0))
        return failed(packing, "cannot write");
    return fdatasync(packing->fd) == 0 ? PD_PACK_DONE : failed(packing, "cannot sync");
}

/* Whether it is there with all its bytes: a drop may have been quicker. */
static enum pd_packing map_source(struct packing *packing)
{
    const struct pd_pack_job *job = packing->job;
    int fd = open(job->source, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return PD_PACK_CANCELLED;
    void *map = fd >= 0 ? mmap(NULL, job->size, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (map == MAP_FAILED)
        pd_fail_errno(packing->error, "cannot read", job->source);
    if (fd >= 0)
        close(fd);
    if (map == MAP_FAILED)
        return PD_PACK_FAILED;
    madvise(map, job->size, MADV_SEQUENTIAL);
    packing->plain = map;
    return PD_PACK_DONE;
}

static enum pd_packing open_target(struct packing *packing)
{
    const struct pd_pack_job *job = packing->job;
    struct statvfs about;
    packing->fd = open(job->target, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (packing->fd < 0 || fstatvfs(packing->fd, &about) != 0)
        return failed(packing, "cannot make");
    if ((uint64_t)about.f_bavail * about.f_frsize < 2 * job->size) {
        errno = ENOSPC;
        return failed(packing, "too little room for");
    }
    return PD_PACK_DONE;
}

enum pd_packing pd_pack(const struct pd_pack_job *job, struct pd_pack_tools *tools, const atomic_bool *cancel,
                        pd_error *error)
{
    uint64_t frames = (job->size + PD_FRAME_SIZE - 1) / PD_FRAME_SIZE;
    struct packing packing = {.job = job, .tools = tools, .sequence = job->base, .fd = -1, .error = error};
    packing.header = (struct pd_packed_header){
        .magic = PD_PACKED_MAGIC,
        .frame_size = PD_FRAME_SIZE,
        .base_sequence = job->base,
        .last_sequence = job->last,
        .size = job->size,
        .stored = PD_PACKED_HEADER,
        .frame_count = (uint32_t)frames,
    };
    packing.entries = calloc(frames, sizeof *packing.entries);
    if (packing.entries == NULL) {
        pd_fail(error, PD_LIMIT_REACHED, "no memory to compress %.300s", job->source);
        return PD_PACK_FAILED;
    }
    enum pd_packing outcome = map_source(&packing);
    if (outcome == PD_PACK_DONE)
        outcome = open_target(&packing);
    if (outcome == PD_PACK_DONE)
        outcome = write_frames(&packing, cancel);
    if (outcome == PD_PACK_DONE)
        outcome = write_index(&packing);
    if (packing.plain != NULL)
        munmap((void *)(uintptr_t)packing.plain, job->size);
    if (packing.fd >= 0)
        close(packing.fd);
    if (packing.fd >= 0 && outcome != PD_PACK_DONE)
        unlink(job->target);
    free(packing.entries);
    return outcome;
}
