/* Which records of a stream are the newest on their subject: for each subject the sequences of the last few. Pure
 * state: it does not know which of them were erased meanwhile, and is told when it asks. */
#ifndef PD_SUBJECT_INDEX_H
#define PD_SUBJECT_INDEX_H

#include "base.h"
#include "hash.h"

/* Subjects of one stream; about 60 bytes each, and 8 for each sequence beyond the first. */
#define PD_INDEX_SUBJECTS_MAX (1u << 22)

struct pd_subject_entry {
    struct pd_hash hash;
    uint32_t at; /* [at, count) are its sequences, ascending */
    uint32_t count;
    uint32_t capacity; /* 1: they are `one` */
    union {
        uint64_t one;
        uint64_t *many;
    };
};

struct pd_subject_index {
    struct pd_hash_key key;
    struct pd_subject_entry *entries;
    size_t count;
    size_t capacity;
    uint32_t *slots; /* open addressing: place + 1, 0 for free; at most half full */
    size_t slot_count;
    size_t sweep_at; /* the count at which it is worth looking for subjects that nothing is kept of */
};

typedef bool (*pd_index_keeps)(const void *context, uint64_t sequence);

int pd_subject_index_init(struct pd_subject_index *index, pd_error *error);
void pd_subject_index_fini(struct pd_subject_index *index);

/* The entry of a subject, or NULL; valid until the next add or sweep. */
struct pd_subject_entry *pd_subject_index_find(const struct pd_subject_index *index, struct pd_span subject);

/* Its entry, made if need be. NULL: no memory, or PD_INDEX_SUBJECTS_MAX. */
struct pd_subject_entry *pd_subject_index_add(struct pd_subject_index *index, struct pd_span subject);

/* Drop the subjects of which nothing is kept, if there may be many. */
void pd_subject_index_sweep(struct pd_subject_index *index, pd_index_keeps keeps, const void *context);

static inline uint32_t pd_subject_entry_left(const struct pd_subject_entry *entry)
{
    return entry->count - entry->at;
}

static inline uint64_t *pd_subject_entry_sequences(struct pd_subject_entry *entry)
{
    return entry->capacity > 1 ? entry->many : &entry->one;
}

/* Forget what is not kept. */
void pd_subject_entry_settle(struct pd_subject_entry *entry, pd_index_keeps keeps, const void *context);

/* Add the newest; false when there is no memory. */
bool pd_subject_entry_push(struct pd_subject_entry *entry, uint64_t sequence);

#endif
