/* A place in a log from which records are read one after the other. What it points at is valid until something else of
 * the log is read, or, when it is pinned, until the stream's lock is given up; the place itself stays good, also when
 * segments are dropped or compressed. */
#ifndef PD_READER_H
#define PD_READER_H

#include "base.h"
#include "batch.h"
#include "log.h"

struct pd_reader {
    uint64_t sequence; /* of the record that is looked at */
    uint64_t segment_base;
    uint64_t batch_offset;
    uint64_t record_offset; /* from the batch's start */
    bool placed;            /* the three above are good, and the batch's checksums were right */
    struct pd_batch_header header;
    const uint8_t *batch;     /* set by seek */
    struct pd_packed *packed; /* the same: what the batch lies in when that is compressed, else NULL */
    struct pd_record record;
};

/* Look at the record with a sequence between first and last. A batch is checked when it is entered:
 * PD_CORRUPTED names the file and the place. */
int pd_reader_seek(struct pd_reader *reader, const struct pd_log *log, uint64_t sequence, pd_error *error);

/* Only place it on the batch with the sequence: reader->batch and header are good, the record is not. */
int pd_reader_seek_batch(struct pd_reader *reader, const struct pd_log *log, uint64_t sequence, pd_error *error);

/* Keep what it points at until pd_frames_unpin: others of the log are read meanwhile. */
static inline void pd_reader_pin(const struct pd_reader *reader)
{
    if (reader->packed != NULL)
        pd_packed_pin(reader->packed, reader->batch_offset, reader->header.length);
}

static inline const uint8_t *pd_reader_record(const struct pd_reader *reader)
{
    return reader->batch + reader->record_offset;
}

static inline struct pd_span pd_record_id(const uint8_t *at, const struct pd_record *record)
{
    return (struct pd_span){at + PD_RECORD_HEADER, record->id_length};
}

#endif
