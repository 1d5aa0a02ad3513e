/* A door: one REP socket with its contexts, one receive at a time, and a thread that handles the requests.
 *
 * nng runs our callbacks on its own threads, at times the one that serves all sockets of the process, so they
 * only pass on: a request goes to the door's thread through a queue, a context whose reply has left goes back
 * to the free ones. There is one outstanding receive: with more, requests of one client overtake each other
 * (measured). A context is busy from its request to its reply, so their number bounds what is under way. */
#ifndef PD_DOOR_H
#define PD_DOOR_H

#include <pthread.h>

#include "consumer.h"
#include "engine.h"
#include "gate.h"
#include "nng_api.h"
#include "stream.h"
#include "wire.h"

struct pd_door;

/* A request on its way, with the context that it came through. */
struct pd_work {
    struct pd_pending pending; /* when it is an append */
    struct pd_fetch fetch;     /* when it is a fetch */
    struct pd_gated gated;     /* when it is an append whose records are looked at first */
    struct pd_work *next;      /* in the queue, or among the free ones */
    struct pd_door *door;
    nng_ctx ctx;
    nng_aio *aio;
    nng_msg *request;
    nng_msg *reply;
    size_t room; /* of the engine's, that it holds */
    uint8_t op;
    bool sending;
    bool counted; /* among the engine's waiting fetches */
};

typedef void (*pd_work_handler)(struct pd_work *work, const struct pd_request *request);

struct pd_door {
    pd_engine *engine;
    const struct pd_nng *nng;
    pd_work_handler handle;
    bool holds_room; /* requests count against the engine's room, and wait for it */
    nng_socket socket;
    pthread_t thread;
    bool running;
    pd_ack *acks; /* the thread's, PD_WIRE_ACKS_MAX of them */

    pthread_mutex_t lock; /* guards what follows; no nng function is called with it */
    pthread_cond_t wake;
    struct pd_work **works;
    size_t work_count;
    size_t work_max;
    size_t busy; /* received and not answered */
    struct pd_work *idle;
    struct pd_work *queue;
    struct pd_work **queue_end;
    bool receiving;
    bool making;     /* a context is being made; it will be the last of works */
    bool quiet;      /* takes no more requests */
    uint32_t *pipes; /* that are connected */
    size_t pipe_count;
    size_t pipe_capacity;
};

/* Open the socket, listen at what is for `which` (enum pd_socket) and start the thread. The door is zeroed memory;
 * after a failure fini it. */
int pd_door_open(struct pd_door *door, pd_engine *engine, const struct pd_nng *nng, uint32_t which, pd_listen *listens,
                 uint32_t listen_count, size_t receive_max, size_t work_max, pd_work_handler handle, pd_error *error);

/* Receive the next request unless that is going on, or there is no context or no room. */
void pd_door_receive(struct pd_door *door);

/* No more requests; the thread ends when it has handled what was received. */
void pd_door_quiesce(struct pd_door *door);
void pd_door_fini(struct pd_door *door);

bool pd_door_pipe_alive(struct pd_door *door, uint32_t pipe);

/* Memory for a reply with so many bytes of body, which is returned; NULL when there is none. */
uint8_t *pd_work_reserve(struct pd_work *work, size_t detail_length, size_t body_length);

/* Answer. With no reply reserved only head and detail go out. The work is no longer the caller's. */
void pd_work_answer(struct pd_work *work, const struct pd_reply *reply, const char *detail);
void pd_work_refuse(struct pd_work *work, int status, const char *why);

#endif
