/* Batches: the unit on the wire, in memory and on the disk. The layout is at the head of batch.c. */
#ifndef PD_BATCH_H
#define PD_BATCH_H

#include "base.h"

#define PD_BATCH_MAGIC    0x31424450u /* "PDB1" */
#define PD_BATCH_HEADER   64u
#define PD_BATCH_STAMPED  32u /* bytes [0, 32) are under stamp_crc */
#define PD_BATCH_BODY     40u /* bytes [40, length) are under body_crc */
#define PD_RECORD_HEADER  24u
#define PD_MESSAGE_ID_MAX 255u
#define PD_NO_EXPECTATION UINT64_MAX

struct pd_batch_header {
    uint32_t magic;
    uint32_t length;
    uint64_t base_sequence;
    uint64_t append_time_ns;
    uint32_t epoch;
    uint32_t undurable;
    uint32_t stamp_crc;
    uint32_t body_crc;
    uint16_t flags;
    uint16_t subject_count;
    uint32_t record_count;
    uint32_t producer_id;
    uint32_t records_offset;
    uint64_t producer_sequence;
};

struct pd_record {
    uint32_t length;
    uint16_t subject;
    uint16_t id_length;
    uint32_t headers_length;
    uint32_t payload_length;
    uint64_t time_ns;
};

struct pd_batch_limits {
    uint64_t max_batch;
    uint64_t max_record;
};

/* Check everything about a batch that came from outside, its checksum included. data needs no alignment.
 * PD_OK and *header; else PD_INVALID, PD_TOO_LARGE, PD_BAD_VERSION or PD_BAD_CHECKSUM. Whoever uses the
 * batch afterwards may trust every length in it. */
int pd_batch_check(const uint8_t *data, size_t length, const struct pd_batch_limits *limits,
                   struct pd_batch_header *header, pd_error *error);

/* Whether `room` bytes at data begin with a whole batch that was stamped, by its two checksums; body_too
 * false looks at the stamp only. */
bool pd_batch_stored(const uint8_t *data, size_t room, bool body_too, struct pd_batch_header *header);

/* The record at `at`, which has `room` bytes until the end of the batch; false when it does not fit. */
bool pd_record_load(const uint8_t *at, size_t room, struct pd_record *record);

/* Write stamp_crc. */
void pd_batch_stamp(struct pd_batch_header *header);

/* The subjects of a batch: subject_count spans into it. data must be checked. */
void pd_batch_subjects(const uint8_t *data, const struct pd_batch_header *header, struct pd_span *subjects);

/* Copy a checked batch to out (room for its length) without the records whose bit is set in `without`, and
 * fix its header (not the stamp). At least one record must be left. */
void pd_batch_rebuild(const uint8_t *data, const struct pd_batch_header *header, const uint8_t *without, uint8_t *out,
                      struct pd_batch_header *rebuilt);

static inline bool pd_bit(const uint8_t *bits, size_t index)
{
    return (bits[index / 8] >> (index % 8) & 1) != 0;
}

static inline void pd_bit_set(uint8_t *bits, size_t index)
{
    bits[index / 8] = (uint8_t)(bits[index / 8] | 1u << (index % 8));
}

#endif
