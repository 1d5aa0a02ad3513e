/* What a consumer has delivered and not heard of, sorted by sequence. Pure state: no clock, no file. */
#ifndef PD_OUTSTANDING_H
#define PD_OUTSTANDING_H

#include "base.h"

enum pd_out_state {
    PD_OUT_GONE,   /* done; its place is still there */
    PD_OUT_SENT,   /* with a client until deadline */
    PD_OUT_READY,  /* to be delivered again */
    PD_OUT_DELAYED /* to be delivered again at deadline */
};

struct pd_out {
    uint64_t sequence;
    uint64_t deadline_ns;
    uint32_t deliveries;
    uint32_t owner; /* nng pipe that it went to; 0: in process */
    enum pd_out_state state;
};

struct pd_outstanding {
    struct pd_out *entries; /* [start, end), sequences ascending, some of them gone */
    size_t capacity;
    size_t start;
    size_t end;
    uint32_t live;
    uint32_t ready;
    size_t guess;   /* behind the entry that was found last: what is asked for in order is there */
    bool notes;     /* what is removed is noted in `done`, for the stream to look at */
    bool done_lost; /* there was no memory for some of it */
    uint64_t *done;
    size_t done_count;
    size_t done_capacity;
};

void pd_outstanding_fini(struct pd_outstanding *out);

/* The entry of a sequence unless it is gone or unknown; valid until the next push. */
struct pd_out *pd_outstanding_find(struct pd_outstanding *out, uint64_t sequence);

/* Add one behind all others, which must have lower sequences. NULL when there is no memory. */
struct pd_out *pd_outstanding_push(struct pd_outstanding *out, uint64_t sequence, enum pd_out_state state);

/* Make sure that the next `count` pushes cannot fail. */
bool pd_outstanding_reserve(struct pd_outstanding *out, size_t count);

void pd_outstanding_set(struct pd_outstanding *out, struct pd_out *entry, enum pd_out_state state);
void pd_outstanding_remove(struct pd_outstanding *out, struct pd_out *entry);

/* Remove all up to a sequence. */
void pd_outstanding_remove_up_to(struct pd_outstanding *out, uint64_t sequence);

/* If there are notes, note one that is done without having been removed: delivered is done, or its letter is stored. */
void pd_outstanding_note(struct pd_outstanding *out, uint64_t sequence);

/* The lowest sequence that is out; 0 when none is. */
uint64_t pd_outstanding_lowest(const struct pd_outstanding *out);

#endif
