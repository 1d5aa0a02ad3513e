/* A compressed segment.
 *
 * The file BASE.zst in a log's directory holds what BASE.seg held, byte for byte: batches, one after the other. It is
 * cut into frames of 256 KiB, regardless of where batches begin, and each is compressed on its own: reading a record
 * decompresses the frames that its batch lies in and no others. All numbers are little-endian.
 *
 *     0 u32 magic "PDZ1"
 *     4 u32 frame_size        262144: bytes of each frame but the last before they were compressed
 *     8 u64 base_sequence     as in the file's name
 *    16 u64 last_sequence
 *    24 u64 size              bytes of the segment before it was compressed
 *    32 u64 stored            bytes of this file
 *    40 u64 oldest_time_ns    append_time_ns of the first batch
 *    48 u64 newest_time_ns    and of the last one
 *    56 u32 epoch             of the last batch
 *    60 u32 frame_count       size / frame_size, rounded up
 *    64 u64 id_count          records that have a msg_id
 *    72 u32 index_crc         CRC32C of the index
 *    76 u32 header_crc        CRC32C of bytes [0, 76)
 *    80 the frames, each one frame of zstd (RFC 8878), in their order and without gaps
 *    stored - 32 * frame_count: the index, an entry for each frame:
 *     0 u64 offset            from the file's start
 *     8 u32 length            in this file
 *    12 u32 crc               CRC32C of these bytes
 *    16 u32 first             where the first batch begins that begins in this frame, from the frame's start;
 *                             2^32 - 1: none does
 *    20 u32 zero
 *    24 u64 sequence          base_sequence of that batch; 0: none
 *
 * To whoever reads, offsets into a segment are those before compression, whether it is compressed or not: a place that
 * somebody remembers stays good while it changes. `map` is address space for the whole segment, of which the loaded
 * frames are there; the bound of their memory is frames.c's. The address space, too, is given back when no frame is
 * loaded.
 *
 * Checksums: the header's when the log is opened, the index's when it is first needed, a frame's before it is
 * decompressed, and the batch's own whenever a reader enters it.
 */
#include "packed.h"

#include "crc32c.h"

#include <assert.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static_assert(sizeof(struct pd_packed_header) == PD_PACKED_HEADER, "the header is 80 bytes");
static_assert(offsetof(struct pd_packed_header, header_crc) == 76, "its checksum is the last of it");
static_assert(sizeof(struct pd_packed_entry) == PD_PACKED_ENTRY, "an entry is 32 bytes");

uint32_t pd_packed_header_crc(const struct pd_packed_header *header)
{
    return pd_crc32c(0, (const uint8_t *)header, offsetof(struct pd_packed_header, header_crc));
}

static int corrupted(const char *path, uint64_t offset, const char *what, pd_error *error)
{
    return pd_fail(error, PD_CORRUPTED, "the log is damaged: %s at offset %llu of %.300s", what,
                   (unsigned long long)offset, path);
}

/* Bytes of the frame before it was compressed. */
static uint64_t plain_size(const struct pd_packed_header *header, uint64_t index)
{
    return pd_min64(PD_FRAME_SIZE, header->size - index * PD_FRAME_SIZE);
}

static uint64_t index_offset(const struct pd_packed_header *header)
{
    return header->stored - (uint64_t)header->frame_count * PD_PACKED_ENTRY;
}

static bool header_fits(const struct pd_packed_header *header, uint64_t base, uint64_t length)
{
    uint64_t index = (uint64_t)header->frame_count * PD_PACKED_ENTRY;
    uint64_t most = (uint64_t)header->frame_count * PD_FRAME_SIZE;
    return header->frame_size == PD_FRAME_SIZE && header->base_sequence == base && header->last_sequence >= base &&
           header->stored == length && header->frame_count > 0 && PD_PACKED_HEADER + index <= length &&
           header->size <= most && header->size > most - PD_FRAME_SIZE;
}

static int read_header(int fd, const char *path, uint64_t base, struct pd_packed_header *header, pd_error *error)
{
    struct stat about;
    ssize_t got = fd >= 0 ? pread(fd, header, sizeof *header, 0) : -1;
    if (got < 0 || fstat(fd, &about) != 0)
        return pd_fail_errno(error, "cannot read", path);
    if (got != (ssize_t)sizeof *header || header->magic != PD_PACKED_MAGIC ||
        pd_packed_header_crc(header) != header->header_crc || !header_fits(header, base, (uint64_t)about.st_size))
        return corrupted(path, 0, "no valid header of a compressed segment", error);
    return PD_OK;
}

int pd_packed_open(const char *path, uint64_t base, struct pd_frames *frames, struct pd_packed **made, pd_error *error)
{
    struct pd_packed *packed = calloc(1, sizeof *packed);
    if (packed == NULL || (packed->path = strdup(path)) == NULL) {
        free(packed);
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for %.300s", path);
    }
    int rc = PD_OK;
    if (frames->pool == NULL)
        rc = pd_fail(error, PD_INVALID, "%.300s is compressed, and zstd is not here to read it", path);
    int fd = rc == PD_OK ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (rc == PD_OK)
        rc = read_header(fd, path, base, &packed->header, error);
    if (fd >= 0)
        close(fd);
    if (rc != PD_OK) {
        pd_packed_free(packed);
        return rc;
    }
    packed->frames = frames;
    *made = packed;
    return PD_OK;
}

/* Give everything back but the header. */
static void close_file(struct pd_packed *packed)
{
    if (packed->map != NULL)
        munmap(packed->map, packed->header.size);
    if (packed->file != NULL)
        munmap((void *)(uintptr_t)packed->file, packed->header.stored);
    free(packed->entries);
    free(packed->loaded);
    packed->map = NULL;
    packed->file = NULL;
    packed->entries = NULL;
    packed->loaded = NULL;
}

void pd_packed_detach(struct pd_packed *packed)
{
    for (uint32_t i = 0; packed->loaded != NULL && packed->frames != NULL && i < packed->header.frame_count; i++)
        if (packed->loaded[i].packed != NULL)
            pd_frames_remove(packed->frames, &packed->loaded[i]);
    packed->frames = NULL;
}

void pd_packed_free(struct pd_packed *packed)
{
    pd_packed_detach(packed);
    close_file(packed);
    free(packed->path);
    free(packed);
}

static int check_index(const struct pd_packed *packed, pd_error *error)
{
    const struct pd_packed_header *header = &packed->header;
    uint64_t end = index_offset(header);
    uint64_t offset = PD_PACKED_HEADER;
    bool valid = pd_crc32c(0, packed->file + end, (size_t)header->frame_count * PD_PACKED_ENTRY) == header->index_crc;
    for (uint32_t i = 0; valid && i < header->frame_count; i++) {
        const struct pd_packed_entry *entry = &packed->entries[i];
        bool none = entry->first == PD_PACKED_NO_BATCH;
        bool placed = entry->first < plain_size(header, i) && entry->sequence >= header->base_sequence &&
                      entry->sequence <= header->last_sequence;
        valid = entry->offset == offset && entry->length <= end - offset && (none || placed);
        offset += entry->length;
    }
    bool begins = valid && packed->entries[0].first == 0 && packed->entries[0].sequence == header->base_sequence;
    return begins && offset == end ? PD_OK : corrupted(packed->path, end, "no valid index", error);
}

static int open_file(struct pd_packed *packed, pd_error *error)
{
    const struct pd_packed_header *header = &packed->header;
    struct stat about;
    int fd = open(packed->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about) != 0) {
        int rc = pd_fail_errno(error, "cannot open", packed->path);
        if (fd >= 0)
            close(fd);
        return rc;
    }
    bool whole = (uint64_t)about.st_size == header->stored;
    void *file = whole ? mmap(NULL, header->stored, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    close(fd);
    if (!whole)
        return corrupted(packed->path, (uint64_t)about.st_size, "its end is missing", error);
    void *map = mmap(NULL, header->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    packed->file = file != MAP_FAILED ? file : NULL;
    packed->map = map != MAP_FAILED ? map : NULL;
    packed->entries = malloc((size_t)header->frame_count * sizeof *packed->entries);
    packed->loaded = calloc(header->frame_count, sizeof *packed->loaded);
    if (packed->file == NULL || packed->map == NULL || packed->entries == NULL || packed->loaded == NULL)
        return pd_fail(error, PD_LIMIT_REACHED, "no memory to read %.300s", packed->path);
    memcpy(packed->entries, packed->file + index_offset(header), (size_t)header->frame_count * PD_PACKED_ENTRY);
    return check_index(packed, error);
}

int pd_packed_index(struct pd_packed *packed, pd_error *error)
{
    if (packed->file != NULL)
        return PD_OK;
    int rc = open_file(packed, error);
    if (rc != PD_OK)
        close_file(packed);
    return rc;
}

static int decompress(struct pd_packed *packed, uint64_t index, pd_error *error)
{
    const struct pd_packed_entry *entry = &packed->entries[index];
    struct pd_frame_pool *pool = packed->frames->pool;
    const uint8_t *stored = packed->file + entry->offset;
    size_t size = plain_size(&packed->header, index);
    if (pd_crc32c(0, stored, entry->length) != entry->crc)
        return corrupted(packed->path, entry->offset, "a frame with a wrong checksum", error);
    ZSTD_DCtx *context = pd_pool_take(pool);
    if (context == NULL)
        return pd_fail(error, PD_LIMIT_REACHED, "no memory to read %.300s", packed->path);
    size_t got =
        pool->zstd.ZSTD_decompressDCtx(context, packed->map + index * PD_FRAME_SIZE, size, stored, entry->length);
    pd_pool_give(pool, context);
    return got == size ? PD_OK : corrupted(packed->path, entry->offset, "a frame that is none of zstd's", error);
}

static void release(struct pd_packed *packed, uint64_t index)
{
    madvise(packed->map + index * PD_FRAME_SIZE, plain_size(&packed->header, index), MADV_DONTNEED);
}

static int load_frame(struct pd_packed *packed, uint64_t index, pd_error *error)
{
    struct pd_frame *frame = &packed->loaded[index];
    if (frame->packed != NULL) {
        pd_frames_touch(packed->frames, frame);
        return PD_OK;
    }
    pd_frames_make_room(packed->frames);
    int rc = decompress(packed, index, error);
    if (rc != PD_OK) {
        release(packed, index);
        return rc;
    }
    frame->packed = packed;
    packed->loaded_count++;
    pd_frames_add(packed->frames, frame);
    return PD_OK;
}

int pd_packed_load(struct pd_packed *packed, uint64_t offset, uint64_t length, pd_error *error)
{
    int rc = pd_packed_index(packed, error);
    if (rc != PD_OK)
        return rc;
    uint64_t last = (offset + length - 1) / PD_FRAME_SIZE;
    packed->frames->turn++;
    packed->loading = true;
    for (uint64_t i = offset / PD_FRAME_SIZE; rc == PD_OK && i <= last; i++)
        rc = load_frame(packed, i, error);
    packed->loading = false;
    if (packed->loaded_count == 0)
        close_file(packed);
    return rc;
}

void pd_packed_pin(struct pd_packed *packed, uint64_t offset, uint64_t length)
{
    for (uint64_t i = offset / PD_FRAME_SIZE; i <= (offset + length - 1) / PD_FRAME_SIZE; i++)
        packed->loaded[i].pin = packed->frames->pins;
}

void pd_packed_give_up(struct pd_frame *frame)
{
    struct pd_packed *packed = frame->packed;
    pd_frames_remove(packed->frames, frame);
    frame->packed = NULL;
    release(packed, (uint64_t)(frame - packed->loaded));
    packed->loaded_count--;
    if (packed->loaded_count == 0 && !packed->loading)
        close_file(packed);
}
