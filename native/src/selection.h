/* The records that a fetch takes, and the delivery block that is made of them. The block's layout is at the
 * head of selection.c. */
#ifndef PD_SELECTION_H
#define PD_SELECTION_H

#include "base.h"
#include "batch.h"
#include "reader.h"

struct pd_pick {
    uint64_t sequence;
    uint64_t append_time_ns;
    const uint8_t *record;
    uint32_t length;
    uint32_t deliveries; /* with this one */
    uint32_t subject;    /* in the block's table */
};

/* Reused from one fetch to the next; guarded by the stream's lock, as what it points at. */
struct pd_selection {
    struct pd_pick *picks;
    size_t count;
    size_t capacity;
    uint64_t bytes; /* of the records */
    uint32_t max_records;
    uint64_t max_bytes;
    struct pd_span *subjects;
    size_t subject_count;
    size_t subject_capacity;
    uint64_t subject_bytes;
    const uint8_t *last_subject; /* of the record that was added last, where its batch has it; its place below */
    uint32_t last_place;
    uint32_t *slots; /* hash of the subjects: place + 1 */
    size_t slot_count;
    struct pd_span *table; /* the subjects of the batch that is read */
    size_t table_capacity;
    uint8_t *matches; /* for each of them: whether the filter wants it */
    size_t match_capacity;
    uint64_t table_sequence; /* base sequence of that batch; 0: none */
};

#define PD_FETCH_RECORDS_MAX 16384u
#define PD_FETCH_BYTES_MAX   (64u << 20)

void pd_selection_fini(struct pd_selection *selection);

/* Empty it; the bounds are clamped to the two above. */
void pd_selection_begin(struct pd_selection *selection, uint32_t max_records, uint64_t max_bytes);

/* Whether a record of so many bytes still fits. The first always does. */
bool pd_selection_fits(const struct pd_selection *selection, uint32_t length);

/* Load the subjects of the reader's batch and which of them the filter matches; how many do. -1: no memory. */
int pd_selection_match(struct pd_selection *selection, const struct pd_reader *reader, struct pd_span filter);

/* Add the reader's record, whose batch was loaded by pd_selection_match; false when there is no memory. */
bool pd_selection_add(struct pd_selection *selection, const struct pd_reader *reader, uint32_t deliveries);

size_t pd_selection_block_length(const struct pd_selection *selection);
void pd_selection_write(const struct pd_selection *selection, uint8_t *block);

#endif
