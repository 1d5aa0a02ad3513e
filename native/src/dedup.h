/* Which (subject, msg_id) a stream has stored lately: at most `limit` of them, none older than `window_ns`. */
#ifndef PD_DEDUP_H
#define PD_DEDUP_H

#include "base.h"
#include "hash.h"

struct pd_dedup_entry {
    struct pd_hash hash;
    uint64_t time_ns;
};

struct pd_dedup {
    struct pd_dedup_entry *entries; /* a ring, oldest at head; capacity is a power of two */
    size_t capacity;
    size_t head;
    size_t count;
    uint32_t *slots; /* open addressing over the ring: place + 1, 0 for free; twice the capacity */
    uint64_t window_ns;
    size_t limit;
};

/* window_ns 0: nothing is remembered. Memory is taken as it is needed. */
void pd_dedup_init(struct pd_dedup *dedup, uint64_t window_ns, size_t limit);
void pd_dedup_fini(struct pd_dedup *dedup);

bool pd_dedup_has(const struct pd_dedup *dedup, struct pd_hash hash);

/* Remember hash as the newest (time_ns must not run backwards): 1 new, 0 it was there, -1 no memory. Bounds
 * are applied by pd_dedup_trim only, so that pd_dedup_undo can take back what was just added. */
int pd_dedup_add(struct pd_dedup *dedup, struct pd_hash hash, uint64_t time_ns);

/* Remember hash as the oldest: for reading a log back from its end. Results as for pd_dedup_add. */
int pd_dedup_add_oldest(struct pd_dedup *dedup, struct pd_hash hash, uint64_t time_ns);

/* Forget the newest `count`. */
void pd_dedup_undo(struct pd_dedup *dedup, size_t count);

/* Forget what is over the limit or older than now_ns - window_ns. */
void pd_dedup_trim(struct pd_dedup *dedup, uint64_t now_ns);

#endif
