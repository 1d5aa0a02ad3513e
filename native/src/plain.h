/* Messages of plain nng programs on the push socket, and the batches that are made of them. The format is at the head
 * of plain.c. Not thread-safe. */
#ifndef PD_PLAIN_H
#define PD_PLAIN_H

#include "base.h"

#define PD_PLAIN_SUBJECTS 32u   /* of one batch; another begins with the next */
#define PD_PLAIN_RECORDS  1024u /* the same */

struct pd_plain {
    struct pd_span subject;
    struct pd_span payload;
};

/* Whether the message is a batch (of the format in batch.c), which is not looked at any further. */
bool pd_plain_is_batch(const uint8_t *message, size_t length);

/* Take a message apart; it is not copied. PD_INVALID or PD_TOO_LARGE with a sentence. */
int pd_plain_parse(const uint8_t *message, size_t length, uint64_t max_record, struct pd_plain *plain, pd_error *error);

/* Records that will be one batch: they point at their messages. */
struct pd_plain_batch {
    struct pd_span subjects[PD_PLAIN_SUBJECTS];
    uint32_t subject_count;
    uint32_t record_count;
    size_t table_length; /* of the subject table, without its padding */
    size_t records_length;
    struct {
        struct pd_span payload;
        uint32_t subject;
    } records[PD_PLAIN_RECORDS];
};

void pd_plain_begin(struct pd_plain_batch *batch);

/* Whether the record fits beside the others, in `room` bytes; the first always does. It is in then. */
bool pd_plain_add(struct pd_plain_batch *batch, const struct pd_plain *plain, size_t room);

/* Bytes of the batch. */
size_t pd_plain_length(const struct pd_plain_batch *batch);

/* Write the batch, with the producer's clock time_ns, into `out`, which has room for its length. */
void pd_plain_write(const struct pd_plain_batch *batch, uint64_t time_ns, uint8_t *out);

#endif
