/* The gate: batches for streams that validate wait here until Python has looked at their records.
 *
 * Whoever took a batch from a socket embeds a pd_gated and parks it; Python is told by an eventfd, takes copies of the
 * batches in their order, and answers each. Then the batch is appended, or its owner refuses it. Parked batches keep
 * the room and the context that they came with, and there are at most PD_GATE_BATCHES of them, so that a stream whose
 * records take long to check does not stop the others. That each is answered in time is up to whoever takes it.
 *
 * A batch that expects a last sequence on its subject waits here, too, while the stream does not know its subjects:
 * that is read from the log, once, by a thread of Python's. */
#ifndef PD_GATE_H
#define PD_GATE_H

#include <pthread.h>

#include "base.h"
#include "stream.h"

#define PD_GATE_BATCHES 128u /* half of the contexts that the ingest socket has */

struct pd_gated {
    struct pd_gated *next;
    struct pd_stream *stream; /* a reference, given to the gate */
    struct pd_batch_view batch;
    struct pd_pending *pending; /* for the append */
    struct pd_expectation expect;
    enum pd_durability durability;
    bool needs_subjects; /* the stream is to know its subjects before it is answered */
    void (*refuse)(struct pd_gated *gated, int status, const char *why);
    /* Its records are of different publishers, so that those that fit are appended without the others, of which this
     * tells; NULL: the batch is taken whole or not at all. */
    void (*refuse_some)(struct pd_gated *gated, uint32_t records, const char *why);
    uint64_t token; /* 0 until it is taken */
};

struct pd_gate {
    pthread_mutex_t lock; /* guards what follows; a leaf */
    pthread_cond_t idle;
    struct pd_gated *parked; /* in their order */
    struct pd_gated **parked_end;
    uint32_t count;
    uint32_t answering;
    uint64_t last_token;
    int event_fd; /* -1: nobody looks */
    bool closed;
};

void pd_gate_init(struct pd_gate *gate);

/* PD_OK, and the batch will be appended or refused (or was); else it is the caller's as before, its stream too. */
int pd_gate_park(struct pd_gate *gate, struct pd_gated *gated, pd_error *error);

/* Refuse all that is parked and all that comes; when it returns no answer is under way. */
void pd_gate_close(struct pd_gate *gate);
void pd_gate_fini(struct pd_gate *gate);

#endif
