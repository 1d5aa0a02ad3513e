/* Records that a consumer gave up and whose dead letters are not stored yet, in the order of giving up; and what a
 * dead letter looks like. Pure state. */
#ifndef PD_LETTERS_H
#define PD_LETTERS_H

#include "base.h"
#include "batch.h"

#define PD_REASON_MAX 256u /* bytes of what a term says */

struct pd_letter {
    uint64_t sequence;
    uint64_t epoch; /* the consumer's when it gave the record up */
    uint32_t deliveries;
    uint32_t reason_length;
    char *reason; /* what a term said; NULL with length 0 */
    bool term;    /* else: max_deliver */
};

struct pd_letters {
    struct pd_letter *items; /* [start, end) */
    size_t start;
    size_t end;
    size_t capacity;
    uint64_t retry_ns; /* not before this */
    uint32_t failures; /* since one was stored */
    bool sending;      /* the first ones are under way */
};

void pd_letters_fini(struct pd_letters *letters);

/* Add one behind the others, with a copy of the reason; false when there is no memory. */
bool pd_letters_add(struct pd_letters *letters, const struct pd_letter *letter);

/* Remove the first of a sequence (of an epoch, unless that is UINT64_MAX); false when there is none. */
bool pd_letters_remove(struct pd_letters *letters, uint64_t sequence, uint64_t epoch);

static inline size_t pd_letters_count(const struct pd_letters *letters)
{
    return letters->end - letters->start;
}

/* The lowest sequence; 0 when there is none. */
uint64_t pd_letters_lowest(const struct pd_letters *letters);

/* What a batch with a dead letter may have more than one with the record. */
#define PD_LETTER_ROOM 4096u

/* Where the record comes from. */
struct pd_letter_origin {
    const char *stream;
    const char *consumer;
    struct pd_span subject;
    const uint8_t *record;
    struct pd_record about; /* the record's header */
};

/* Write the dead letter as a record with subject 0 into out, which has room for the record and PD_LETTER_ROOM; its
 * length. Its id names stream, consumer, sequence and epoch, so that sending it twice stores it once. */
size_t pd_letter_write(const struct pd_letter *letter, const struct pd_letter_origin *origin, uint8_t *out);

/* Begin a batch of one subject in out: where the first record goes. End it: its header, and everything but the
 * stamp, is written. */
size_t pd_letter_batch_begin(uint8_t *out, const char *subject);
void pd_letter_batch_end(uint8_t *out, size_t length, uint32_t records, struct pd_batch_header *header);

bool pd_utf8_valid(const uint8_t *text, size_t length);

#endif
