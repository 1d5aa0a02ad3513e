/* Sequences that a consumer delivers before its cursor goes on: ascending, each taken once. Pure state. */
#ifndef PD_PICKS_H
#define PD_PICKS_H

#include "base.h"

/* How many there may be: 8 MiB of memory, 16 MiB in the journal, until they are delivered. */
#define PD_PICKS_MAX (1u << 20)

struct pd_picks {
    uint64_t *sequences; /* [at, count) are left */
    size_t at;
    size_t count;
    size_t capacity;
};

void pd_picks_fini(struct pd_picks *picks);

/* Add one behind all others; false when it is not, or there are PD_PICKS_MAX, or there is no memory. */
bool pd_picks_add(struct pd_picks *picks, uint64_t sequence);

static inline size_t pd_picks_left(const struct pd_picks *picks)
{
    return picks->count - picks->at;
}

/* Drop those up to `last`; with none left the memory is given back. */
void pd_picks_advance(struct pd_picks *picks, uint64_t last);

/* Drop those from `end` on. */
void pd_picks_cut(struct pd_picks *picks, uint64_t end);

#endif
