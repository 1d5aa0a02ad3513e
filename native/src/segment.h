/* One file of a stream's log: batches one after the other, first sequence in its name. The layout of a batch
 * is at the head of batch.c, that of a compressed file at the head of packed.c. Not thread-safe: the stream's lock
 * guards it, but pd_segment_sync may run without while a reference is held. */
#ifndef PD_SEGMENT_H
#define PD_SEGMENT_H

#include "base.h"
#include "batch.h"
#include "bitmap.h"
#include "packed.h"

/* What its file's name ends with; both are of one length. */
#define PD_PLAIN  ".seg"
#define PD_PACKED ".zst"
#define PD_NEW    ".new" /* behind the other: it is being written */

/* path has room for PD_PATH_MAX bytes. */
void pd_segment_path(char *path, const char *directory, uint64_t base, const char *suffix);

/* A place in the file from which to hop to a sequence. */
struct pd_mark {
    uint64_t sequence;
    uint64_t offset;
};

struct pd_segment {
    uint64_t base;           /* first sequence */
    uint64_t last;           /* last sequence; base - 1 when there is none */
    uint64_t size;           /* bytes of whole batches */
    uint64_t allocated;      /* bytes of the file, zeros behind size */
    uint64_t synced;         /* bytes that are known to be durable */
    uint64_t newest_time_ns; /* append time of the last batch; 0: not looked up yet */
    uint64_t oldest_time_ns; /* append time of the first batch; 0: not looked up yet */
    const uint8_t *map;      /* read-only, made at the first read; of a compressed one, what is loaded is there */
    size_t map_length;
    struct pd_mark *marks; /* one for about each 64 KiB */
    size_t mark_count;
    size_t mark_capacity;
    struct pd_bitmap erased;  /* sequence - base of what is not kept */
    struct pd_packed *packed; /* NULL: it is not compressed; all sizes above are those before it was */
    bool useless;             /* it is not worth compressing, or cannot be */
    bool twin;                /* its compressed file has its name, too, and is not in use yet */
    uint64_t limit;           /* what size never exceeds */
    int fd;                   /* -1 when it is not open */
    bool indexed;
    unsigned references;
    struct pd_segment *next; /* among those that were dropped */
    char *path;
};

/* Make an empty segment (the directory is not synced) or open one that is there; its contents are not looked at:
 * last, size and indexed are for the caller to set. `limit`: bytes that it may grow to. */
int pd_segment_create(const char *directory, uint64_t base, uint64_t limit, struct pd_segment **segment,
                      pd_error *error);
int pd_segment_open(const char *directory, uint64_t base, uint64_t limit, struct pd_segment **segment, pd_error *error);
/* One that is compressed; everything but what is erased is known then. */
int pd_segment_open_packed(const char *directory, uint64_t base, struct pd_frames *frames, struct pd_segment **segment,
                           pd_error *error);
void pd_segment_unref(struct pd_segment *segment);

/* Its file from now on is the compressed one: `packed` is the segment's. *old_map is to be unmapped without the lock.
 */
void pd_segment_replace(struct pd_segment *segment, struct pd_packed *packed, void **old_map);

/* Bytes on the disk. */
static inline uint64_t pd_segment_stored(const struct pd_segment *segment)
{
    return segment->packed != NULL ? segment->packed->header.stored : segment->size;
}

/* Write a stamped header and what follows it at the end. When the disk is full the file is as it was. If
 * even that cannot be had, *damaged is set: nothing may be appended any more. */
int pd_segment_append(struct pd_segment *segment, const struct pd_batch_header *header, const uint8_t *body,
                      bool *damaged, pd_error *error);

/* Cut the file to its size: no zeros remain. */
int pd_segment_trim(struct pd_segment *segment, pd_error *error);

/* fdatasync. */
int pd_segment_sync(struct pd_segment *segment, pd_error *error);

/* The file may be closed between reads (a mapping outlives it) and is opened again for writing. */
int pd_segment_reopen(struct pd_segment *segment, pd_error *error);
void pd_segment_close_file(struct pd_segment *segment);

/* Make `map` valid; of one that is not compressed. */
int pd_segment_map(struct pd_segment *segment, pd_error *error);

/* Make `map` valid from offset for length bytes, or up to the segment's end, until the next load of the log. Of one
 * that is not compressed it stays valid for as long as the lock is held. */
int pd_segment_load(struct pd_segment *segment, uint64_t offset, uint64_t length, pd_error *error);

/* The same for the batch at offset, and check it: its stamp, and if body_too everything else, of which else nothing
 * is loaded. PD_CORRUPTED names the place. */
int pd_segment_batch(struct pd_segment *segment, uint64_t offset, bool body_too, struct pd_batch_header *header,
                     pd_error *error);

/* Note a batch that begins at offset in the index. Batches come in order. */
bool pd_segment_mark(struct pd_segment *segment, uint64_t offset, const struct pd_batch_header *header);

/* Where the batch with the sequence begins; maps and indexes the file when need be. PD_CORRUPTED names the
 * place. */
int pd_segment_find(struct pd_segment *segment, uint64_t sequence, uint64_t *offset, pd_error *error);

/* The last mark at or before the sequence, of an indexed segment. */
const struct pd_mark *pd_segment_mark_before(const struct pd_segment *segment, uint64_t sequence);

/* Learn oldest_time_ns and newest_time_ns. */
int pd_segment_times(struct pd_segment *segment, pd_error *error);

/* The one sentence for damage. */
int pd_segment_corrupted(const struct pd_segment *segment, uint64_t offset, pd_error *error);

#endif
