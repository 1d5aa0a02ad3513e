/* What finished in process: a bounded ring that one thread empties, and an eventfd that says when. */
#ifndef PD_COMPLETION_H
#define PD_COMPLETION_H

#include <pthread.h>

#include "base.h"

/* Tokens that were handed in and not yet taken out; over it new ones are refused. */
#define PD_TOKENS_MAX 8192u

struct pd_finished_token {
    pd_completion completion;
    uint8_t *bitmap; /* of duplicates, malloc'ed, or NULL */
    uint32_t record_count;
};

struct pd_completions {
    pthread_mutex_t lock;
    struct pd_finished_token *ring; /* PD_TOKENS_MAX */
    uint32_t head;
    uint32_t count;
    uint32_t tokens;                 /* handed in and not taken */
    struct pd_finished_token *taken; /* those of the last take that have duplicates */
    size_t taken_count;
    size_t taken_capacity;
    int event_fd;
};

int pd_completions_init(struct pd_completions *completions, pd_error *error);
void pd_completions_fini(struct pd_completions *completions);

/* A place in the ring; false when PD_TOKENS_MAX are in use. */
bool pd_completions_reserve(struct pd_completions *completions);
void pd_completions_unreserve(struct pd_completions *completions);

/* Fill a reserved place; takes the bitmap over. */
void pd_completions_put(struct pd_completions *completions, const struct pd_finished_token *finished);

/* As the functions of the boundary. */
size_t pd_completions_drain(struct pd_completions *completions, pd_completion *out, size_t capacity);
size_t pd_completions_duplicates(struct pd_completions *completions, uint64_t token, uint32_t *positions,
                                 size_t capacity);

#endif
