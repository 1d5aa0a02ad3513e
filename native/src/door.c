/* A door: one REP socket with its contexts, one receive at a time, and a thread that handles the requests. */
#include "door.h"

#include "listen.h"

#include <stdlib.h>
#include <time.h>

#define LINGER_NS 20000000    /* for the last replies to leave nng: closing drops what it has queued */
#define DRAIN_NS  2000000000u /* for clients to take their last replies */
#define PIPES_MAX ((size_t)1 << 16)

static void on_aio(void *context);

static struct pd_work *make_work(struct pd_door *door)
{
    const struct pd_nng *nng = door->nng;
    struct pd_work *work = calloc(1, sizeof *work);
    if (work == NULL)
        return NULL;
    work->door = door;
    if (nng->nng_ctx_open(&work->ctx, door->socket) != 0) {
        free(work);
        return NULL;
    }
    if (nng->nng_aio_alloc(&work->aio, on_aio, work) != 0) {
        nng->nng_ctx_close(work->ctx);
        free(work);
        return NULL;
    }
    return work;
}

/* An idle context for the next request, or NULL; the door is then marked as receiving. */
static struct pd_work *next_work(struct pd_door *door, bool *make)
{
    uint64_t held = atomic_load(&door->engine->pending_bytes);
    bool room = !door->holds_room || held < door->engine->options.max_pending_appends;
    struct pd_work *work = NULL;
    *make = false;
    pthread_mutex_lock(&door->lock);
    if (!door->receiving && !door->quiet && room) {
        work = door->idle;
        if (work != NULL)
            door->idle = work->next;
        *make = work == NULL && door->work_count < door->work_max;
        door->work_count += *make;
        door->making = *make;
        door->receiving = work != NULL || *make;
    }
    pthread_mutex_unlock(&door->lock);
    return work;
}

void pd_door_receive(struct pd_door *door)
{
    bool make;
    struct pd_work *work = next_work(door, &make);
    if (make) {
        work = make_work(door);
        pthread_mutex_lock(&door->lock);
        if (work != NULL) {
            door->works[door->work_count - 1] = work;
        } else {
            door->work_count--; /* the next reply that leaves tries again */
            door->receiving = false;
        }
        door->making = false;
        pthread_cond_broadcast(&door->wake);
        pthread_mutex_unlock(&door->lock);
    }
    if (work == NULL)
        return;
    work->sending = false;
    door->nng->nng_ctx_recv(work->ctx, work->aio);
}

/* The context is free again. */
static void give_back(struct pd_work *work, bool was_receiving)
{
    struct pd_door *door = work->door;
    pthread_mutex_lock(&door->lock);
    work->next = door->idle;
    door->idle = work;
    if (was_receiving)
        door->receiving = false;
    else
        door->busy--;
    pthread_cond_broadcast(&door->wake);
    pthread_mutex_unlock(&door->lock);
}

static void received(struct pd_work *work, nng_msg *message)
{
    struct pd_door *door = work->door;
    work->request = message;
    work->room = door->holds_room ? door->nng->nng_msg_len(message) : 0;
    atomic_fetch_add(&door->engine->pending_bytes, work->room);
    pthread_mutex_lock(&door->lock);
    bool quiet = door->quiet;
    door->receiving = false;
    door->busy++;
    if (!quiet) {
        work->next = NULL;
        *door->queue_end = work;
        door->queue_end = &work->next;
        pthread_cond_broadcast(&door->wake);
    }
    pthread_mutex_unlock(&door->lock);
    if (quiet)
        pd_work_refuse(work, PD_STOPPING, "the daemon is stopping");
    else
        pd_door_receive(door);
}

/* nng is done with the work's receive or send. */
static void on_aio(void *context)
{
    struct pd_work *work = context;
    struct pd_door *door = work->door;
    int result = door->nng->nng_aio_result(work->aio);
    if (!work->sending && result == 0) {
        nng_msg *message = door->nng->nng_aio_get_msg(work->aio);
        door->nng->nng_aio_set_msg(work->aio, NULL);
        received(work, message);
        return;
    }
    if (work->sending && result != 0) { /* the client is gone; the message is still ours */
        door->nng->nng_msg_free(door->nng->nng_aio_get_msg(work->aio));
        door->nng->nng_aio_set_msg(work->aio, NULL);
    }
    give_back(work, !work->sending);
    if (result != NNG_ECLOSED)
        pd_door_receive(door);
}

static struct pd_work *take_from_queue(struct pd_door *door)
{
    pthread_mutex_lock(&door->lock);
    while (door->queue == NULL && !door->quiet)
        pthread_cond_wait(&door->wake, &door->lock);
    struct pd_work *work = door->queue;
    if (work != NULL) {
        door->queue = work->next;
        if (door->queue == NULL)
            door->queue_end = &door->queue;
    }
    pthread_mutex_unlock(&door->lock);
    return work;
}

static void *run(void *context)
{
    struct pd_door *door = context;
    struct pd_work *work;
    pthread_setname_np(pthread_self(), door->holds_room ? "pd-ingest" : "pd-fetch");
    while ((work = take_from_queue(door)) != NULL) {
        struct pd_request request;
        pd_error error;
        size_t length = door->nng->nng_msg_len(work->request);
        int rc = pd_request_parse(door->nng->nng_msg_body(work->request), length, &request, &error);
        work->op = request.op;
        pd_count(&door->engine->counters.requests, 1);
        if (rc == PD_OK)
            door->handle(work, &request);
        else
            pd_work_refuse(work, rc, error.text);
    }
    return NULL;
}

static void on_pipe(nng_pipe pipe, int event, void *context)
{
    struct pd_door *door = context;
    pthread_mutex_lock(&door->lock);
    if (event == NNG_PIPE_EV_ADD_PRE) {
        if (door->pipe_count < PIPES_MAX &&
            pd_reserve((void **)&door->pipes, &door->pipe_capacity, door->pipe_count + 1, sizeof *door->pipes))
            door->pipes[door->pipe_count++] = pipe.id;
    } else {
        for (size_t i = 0; i < door->pipe_count; i++)
            if (door->pipes[i] == pipe.id)
                door->pipes[i--] = door->pipes[--door->pipe_count];
    }
    pthread_mutex_unlock(&door->lock);
    if (event == NNG_PIPE_EV_REM_POST)
        pd_timer_pipe_gone(&door->engine->timer, pipe.id);
}

bool pd_door_pipe_alive(struct pd_door *door, uint32_t pipe)
{
    bool alive = false;
    pthread_mutex_lock(&door->lock);
    for (size_t i = 0; i < door->pipe_count && !alive; i++)
        alive = door->pipes[i] == pipe;
    pthread_mutex_unlock(&door->lock);
    return alive;
}

static int listen_on(struct pd_door *door, uint32_t which, pd_listen *listens, uint32_t count, size_t receive_max,
                     pd_error *error)
{
    const struct pd_nng *nng = door->nng;
    int rv = nng->nng_rep0_open(&door->socket);
    if (rv != 0)
        return pd_fail(error, PD_IO_ERROR, "nng gives no socket: %s", nng->nng_strerror(rv));
    rv = nng->nng_socket_set_size(door->socket, "recv-size-max", receive_max);
    if (rv == 0)
        rv = nng->nng_pipe_notify(door->socket, NNG_PIPE_EV_ADD_PRE, on_pipe, door);
    if (rv == 0)
        rv = nng->nng_pipe_notify(door->socket, NNG_PIPE_EV_REM_POST, on_pipe, door);
    if (rv != 0)
        return pd_fail(error, PD_IO_ERROR, "nng does not let us see connections: %s", nng->nng_strerror(rv));
    return pd_listen_all(nng, door->socket, which, listens, count, error);
}

int pd_door_open(struct pd_door *door, pd_engine *engine, const struct pd_nng *nng, uint32_t which, pd_listen *listens,
                 uint32_t listen_count, size_t receive_max, size_t work_max, pd_work_handler handle, pd_error *error)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&door->lock, NULL);
    pthread_cond_init(&door->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    door->engine = engine;
    door->nng = nng;
    door->handle = handle;
    door->work_max = work_max;
    door->queue_end = &door->queue;
    door->works = calloc(work_max, sizeof *door->works);
    door->acks = malloc(PD_WIRE_ACKS_MAX * sizeof *door->acks);
    if (door->works == NULL || door->acks == NULL)
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for socket %u", which);
    int rc = listen_on(door, which, listens, listen_count, receive_max, error);
    if (rc != PD_OK)
        return rc;
    door->running = pthread_create(&door->thread, NULL, run, door) == 0;
    if (!door->running)
        return pd_fail(error, PD_LIMIT_REACHED, "the system gives no more threads");
    pd_door_receive(door);
    return PD_OK;
}

void pd_door_quiesce(struct pd_door *door)
{
    if (!door->running)
        return;
    pthread_mutex_lock(&door->lock);
    door->quiet = true;
    pthread_cond_broadcast(&door->wake);
    pthread_mutex_unlock(&door->lock);
    pthread_join(door->thread, NULL);
    door->running = false;
}

/* Until every reply has been handed to nng, and then a little. */
static void drain(struct pd_door *door)
{
    uint64_t until_ns = pd_mono_ns() + DRAIN_NS;
    struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
    struct timespec linger = {0, LINGER_NS};
    int rc = 0;
    pthread_mutex_lock(&door->lock);
    bool any = door->pipe_count > 0;
    while ((door->busy > 0 || door->making) && rc == 0)
        rc = pthread_cond_timedwait(&door->wake, &door->lock, &until);
    pthread_mutex_unlock(&door->lock);
    if (any)
        nanosleep(&linger, NULL);
}

void pd_door_fini(struct pd_door *door)
{
    const struct pd_nng *nng = door->nng;
    if (nng == NULL)
        return;
    pd_door_quiesce(door);
    if (door->socket.id != 0) {
        drain(door);
        nng->nng_close(door->socket);
    }
    for (size_t i = 0; i < door->work_count; i++) {
        struct pd_work *work = door->works[i];
        nng->nng_aio_stop(work->aio);
        nng->nng_aio_free(work->aio);
        if (work->request != NULL)
            nng->nng_msg_free(work->request);
        if (work->reply != NULL)
            nng->nng_msg_free(work->reply);
        free(work);
    }
    free(door->works);
    free(door->acks);
    free(door->pipes);
    door->works = NULL;
    door->acks = NULL;
    door->pipes = NULL;
    door->work_count = door->work_max = door->pipe_count = door->pipe_capacity = 0;
}

uint8_t *pd_work_reserve(struct pd_work *work, size_t detail_length, size_t body_length)
{
    const struct pd_nng *nng = work->door->nng;
    size_t offset = pd_reply_body_offset(detail_length);
    if (nng->nng_msg_alloc(&work->reply, offset + body_length) != 0) {
        work->reply = NULL;
        return NULL;
    }
    return (uint8_t *)nng->nng_msg_body(work->reply) + offset;
}

void pd_work_answer(struct pd_work *work, const struct pd_reply *reply, const char *detail)
{
    struct pd_door *door = work->door;
    const struct pd_nng *nng = door->nng;
    size_t detail_length = strlen(detail);
    if (work->request != NULL)
        nng->nng_msg_free(work->request);
    work->request = NULL;
    size_t room = work->room;
    work->room = 0;
    if (work->reply == NULL && pd_work_reserve(work, detail_length, 0) == NULL) {
        give_back(work, false); /* no memory to answer with: the client's own deadline ends its wait */
    } else {
        pd_reply_write(nng->nng_msg_body(work->reply), reply, detail, detail_length);
        nng->nng_aio_set_msg(work->aio, work->reply);
        work->reply = NULL;
        work->sending = true;
        nng->nng_ctx_send(work->ctx, work->aio);
    }
    if (room > 0)
        pd_engine_give_room(door->engine, room);
}

void pd_work_refuse(struct pd_work *work, int status, const char *why)
{
    struct pd_reply reply = {.op = work->op, .status = (uint16_t)status};
    if (work->reply != NULL)
        work->door->nng->nng_msg_free(work->reply);
    work->reply = NULL;
    bool bad = status == PD_INVALID || status == PD_BAD_VERSION || status == PD_BAD_CHECKSUM || status == PD_TOO_LARGE;
    pd_count(&work->door->engine->counters.bad_requests, bad);
    pd_work_answer(work, &reply, why);
}
