/* A set of small numbers, one bit for each: what of a segment is erased. Empty, it has no memory. */
#ifndef PD_BITMAP_H
#define PD_BITMAP_H

#include "base.h"

struct pd_bitmap {
    uint64_t *words;
    size_t capacity; /* in words */
    uint64_t count;  /* how many are in it */
};

void pd_bitmap_fini(struct pd_bitmap *bitmap);

/* Make room for the numbers below `end`, so that setting them cannot fail; false when there is no memory. */
bool pd_bitmap_reserve(struct pd_bitmap *bitmap, uint64_t end);

/* Add the numbers from `from` to below `end`, for which there is room; how many were not in it. */
uint64_t pd_bitmap_set(struct pd_bitmap *bitmap, uint64_t from, uint64_t end);

/* How many of the numbers from `from` to below `end` are in it. */
uint64_t pd_bitmap_count(const struct pd_bitmap *bitmap, uint64_t from, uint64_t end);

/* The first number from `from` to below `end` that is (or is not) in it; `end` when there is none. */
uint64_t pd_bitmap_next(const struct pd_bitmap *bitmap, uint64_t from, uint64_t end, bool in_it);

/* The last number below `end` that is not in it; `end` when there is none. */
uint64_t pd_bitmap_last_free(const struct pd_bitmap *bitmap, uint64_t end);

#endif
