/* A compressed segment: what is in its file, and the frames of it that are decompressed. The layout is at the head of
 * packed.c. Not thread-safe: the stream's lock guards it. */
#ifndef PD_PACKED_H
#define PD_PACKED_H

#include "base.h"
#include "frames.h"

#define PD_PACKED_MAGIC    0x315a4450u /* "PDZ1" */
#define PD_PACKED_HEADER   80u
#define PD_PACKED_ENTRY    32u
#define PD_PACKED_NO_BATCH UINT32_MAX

struct pd_packed_header {
    uint32_t magic;
    uint32_t frame_size;
    uint64_t base_sequence;
    uint64_t last_sequence;
    uint64_t size;
    uint64_t stored;
    uint64_t oldest_time_ns;
    uint64_t newest_time_ns;
    uint32_t epoch;
    uint32_t frame_count;
    uint64_t id_count;
    uint32_t index_crc;
    uint32_t header_crc;
};

struct pd_packed_entry {
    uint64_t offset;
    uint32_t length;
    uint32_t crc;
    uint32_t first;
    uint32_t zero;
    uint64_t sequence;
};

struct pd_packed {
    struct pd_packed_header header;
    struct pd_frames *frames; /* where its frames are listed; NULL: it was dropped from its log */
    char *path;
    uint8_t *map;                    /* of the whole segment, as it was before; only the loaded frames are there */
    const uint8_t *file;             /* from here on: NULL while nothing is loaded, and nothing was asked */
    struct pd_packed_entry *entries; /* one a frame */
    struct pd_frame *loaded;         /* the same */
    uint32_t loaded_count;
    bool loading;
};

/* Read the header of a file. PD_CORRUPTED names the file. */
int pd_packed_open(const char *path, uint64_t base, struct pd_frames *frames, struct pd_packed **packed,
                   pd_error *error);
void pd_packed_free(struct pd_packed *packed);

/* Make `entries` valid: until frames are loaded and given up. */
int pd_packed_index(struct pd_packed *packed, pd_error *error);

/* Make `map` valid from offset for length bytes, which are inside of the segment: until the next load of its log, or
 * while it is pinned. PD_CORRUPTED names the file and the frame's offset in it. */
int pd_packed_load(struct pd_packed *packed, uint64_t offset, uint64_t length, pd_error *error);

/* Keep what was loaded until pd_frames_unpin. */
void pd_packed_pin(struct pd_packed *packed, uint64_t offset, uint64_t length);

/* Leave the log's list: what is loaded stays until it is freed, which may be without the lock. */
void pd_packed_detach(struct pd_packed *packed);

/* For frames.c: this frame's memory is wanted. */
void pd_packed_give_up(struct pd_frame *frame);

/* For pack.c. */
uint32_t pd_packed_header_crc(const struct pd_packed_header *header);

#endif
