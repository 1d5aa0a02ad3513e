/* The push socket: a PULL socket that plain nng programs send records to. See plain.c for the messages.
 *
 * What is received waits in a bounded queue; a thread makes batches of what there is and appends them. When the queue
 * or the engine has no room the socket is not received from: nng then takes no more from the connections, and the
 * programs' sends block. What cannot be stored is counted, and told through the notice.
 *
 * For a stream that validates a batch waits at the gate. Records of plain messages are taken apart there: those that
 * fit are stored, the others are counted as invalid. A message that is a batch is taken whole or not at all. */
#ifndef PD_PUSH_H
#define PD_PUSH_H

#include "engine.h"
#include "gate.h"
#include "nng_api.h"
#include "notice.h"
#include "plain.h"

struct pd_push;

#define PD_PUSH_APPENDS 64u   /* that wait for the disk at once */
#define PD_PUSH_QUEUE   4096u /* messages */
#define PD_PUSH_GATED   16u   /* batches whose records are looked at; with more, no message is taken */

struct pd_push_append {
    struct pd_pending pending; /* first: finish gets its address */
    struct pd_push *push;
    struct pd_push_append *next; /* among the free ones */
    size_t room;
    struct pd_gated gated; /* when its records are looked at first */
    uint8_t *copy;         /* of the batch, for then */
};

struct pd_push {
    pd_engine *engine;
    const struct pd_nng *nng;
    struct pd_notice *notice;
    enum pd_durability durability;
    uint64_t buffer;
    nng_socket socket;
    nng_aio *aio;
    pthread_t thread;
    bool running;

    /* The thread's. */
    nng_msg *run[PD_PLAIN_RECORDS]; /* the messages of `batch` */
    struct pd_plain_batch batch;
    uint8_t *scratch;
    size_t scratch_capacity;

    pthread_mutex_t lock; /* guards what follows; no nng function that could wait is called with it */
    pthread_cond_t wake;
    nng_msg *queue[PD_PUSH_QUEUE];
    uint32_t queue_head;
    uint32_t queue_count;
    uint64_t queue_bytes;
    bool receiving;
    bool quiet; /* takes no more messages */
    struct pd_push_append appends[PD_PUSH_APPENDS];
    struct pd_push_append *idle;
    uint32_t gated; /* appends with a copy */
};

/* Open the socket, listen and start the thread. The push is zeroed memory; after a failure fini it. */
int pd_push_open(struct pd_push *push, pd_engine *engine, const struct pd_nng *nng, struct pd_notice *notice,
                 pd_listen *listens, uint32_t listen_count, const pd_broker_options *options, pd_error *error);

/* Receive the next message unless that is going on, or there is no room. */
void pd_push_receive(struct pd_push *push);

/* Receive no more; what was received is handed to the log when this returns. */
void pd_push_quiesce(struct pd_push *push);
void pd_push_fini(struct pd_push *push);

#endif
