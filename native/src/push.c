/* The push socket: a PULL socket that plain nng programs send records to.
 *
 * There is one outstanding receive, so messages of one program keep their order. The thread takes them one by one
 * and collects records as long as they are for one stream, there are more, and they fit; then it appends what it has.
 * So a record that comes alone is stored at once, and a flood is stored in large batches.
 *
 * Bytes that were received and are not with the log yet count as pending with the engine, as those of the ingest
 * socket do: one limit holds for all that waits for the disk.
 */
#include "push.h"

#include "listen.h"
#include "subject.h"

#include <stdlib.h>
#include <time.h>

#define BATCH_ROOM   ((size_t)256 << 10) /* of one batch of several records */
#define SCRATCH_KEPT ((size_t)1 << 20)   /* a larger one is given back */
#define RETRY_NS     10000000            /* for a place at the gate, when other sockets have them all */

static void finished(struct pd_pending *pending)
{
    struct pd_push_append *append = (struct pd_push_append *)pending;
    struct pd_push *push = append->push;
    size_t room = append->room;
    if (pending->status == PD_OK)
        pd_count(&push->notice->push_records, pending->appended);
    else
        pd_notice_refuse(push->notice, pending->status, pending->record_count, pending->error.text);
    free(pending->bitmap);
    pending->bitmap = NULL;
    pthread_mutex_lock(&push->lock);
    push->gated -= append->copy != NULL;
    free(append->copy);
    append->copy = NULL;
    append->next = push->idle;
    push->idle = append;
    pthread_cond_broadcast(&push->wake);
    pthread_mutex_unlock(&push->lock);
    pd_engine_give_room(push->engine, room);
}

static struct pd_push_append *take_append(struct pd_push *push)
{
    pthread_mutex_lock(&push->lock);
    while (push->idle == NULL)
        pthread_cond_wait(&push->wake, &push->lock);
    struct pd_push_append *append = push->idle;
    push->idle = append->next;
    pthread_mutex_unlock(&push->lock);
    return append;
}

static struct pd_push_append *of_gated(struct pd_gated *gated)
{
    return (struct pd_push_append *)((char *)gated - offsetof(struct pd_push_append, gated));
}

static void refuse(struct pd_push_append *append, uint32_t records, int status, const char *why)
{
    append->pending.status = status;
    append->pending.record_count = records;
    pd_fail(&append->pending.error, status, "%s", why);
    finished(&append->pending);
}

static void refuse_gated(struct pd_gated *gated, int status, const char *why)
{
    refuse(of_gated(gated), gated->batch.header.record_count, status, why);
}

static void refuse_some(struct pd_gated *gated, uint32_t records, const char *why)
{
    pd_notice_refuse(of_gated(gated)->push->notice, PD_INVALID, records, why);
}

/* Wait until fewer batches are looked at, and count this one; a copy of it is its own then. */
static bool take_copy(struct pd_push *push, struct pd_push_append *append, const struct pd_batch_view *batch)
{
    uint8_t *copy = malloc(batch->header.length);
    if (copy == NULL)
        return false;
    memcpy(copy, batch->data, batch->header.length);
    pthread_mutex_lock(&push->lock);
    while (push->gated >= PD_PUSH_GATED && !push->quiet)
        pthread_cond_wait(&push->wake, &push->lock);
    push->gated++;
    append->copy = copy;
    pthread_mutex_unlock(&push->lock);
    return true;
}

static bool is_quiet(struct pd_push *push)
{
    pthread_mutex_lock(&push->lock);
    bool quiet = push->quiet;
    pthread_mutex_unlock(&push->lock);
    return quiet;
}

/* Have the records of a batch looked at: apart, or all as one. */
static int park(struct pd_push_append *append, struct pd_stream *stream, const struct pd_batch_view *batch, bool apart,
                pd_error *error)
{
    static const struct timespec a_moment = {0, RETRY_NS};
    struct pd_push *push = append->push;
    if (!take_copy(push, append, batch))
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for a batch");
    append->gated = (struct pd_gated){
        .stream = stream,
        .batch = {.data = append->copy, .header = batch->header},
        .pending = &append->pending,
        .expect = {PD_NO_EXPECTATION, PD_NO_EXPECTATION},
        .durability = push->durability,
        .refuse = refuse_gated,
        .refuse_some = apart ? refuse_some : NULL,
    };
    pd_stream_ref(stream); /* the gate's, if it takes it */
    int rc = pd_gate_park(&push->engine->gate, &append->gated, error);
    while (rc == PD_LIMIT_REACHED && !is_quiet(push)) {
        nanosleep(&a_moment, NULL);
        rc = pd_gate_park(&push->engine->gate, &append->gated, error);
    }
    if (rc != PD_OK)
        pd_stream_unref(stream);
    return rc;
}

static void append_batch(struct pd_push *push, struct pd_stream *stream, const struct pd_batch_view *batch, bool apart,
                         size_t room)
{
    static const struct pd_expectation nothing = {PD_NO_EXPECTATION, PD_NO_EXPECTATION};
    struct pd_push_append *append = take_append(push);
    pd_error error;
    append->push = push;
    append->room = room;
    append->pending.finish = finished;
    int rc = pd_stream_append(stream, batch, push->durability, &nothing, &append->pending, &error);
    if (rc == PD_UNCHECKED)
        rc = park(append, stream, batch, apart, &error);
    if (rc != PD_OK)
        refuse(append, batch->header.record_count, rc, error.text);
}

/* Append a batch for the stream of that name ("": whichever it is for, and it is a message), or refuse it. */
static void store(struct pd_push *push, const char *name, const uint8_t *data, uint32_t records, size_t room)
{
    struct pd_batch_view batch = {.data = data};
    struct pd_stream *stream;
    pd_error error;
    memcpy(&batch.header, data, sizeof batch.header);
    int rc = pd_engine_owner(push->engine, name, &batch, &stream, &error);
    if (rc == PD_OK) {
        append_batch(push, stream, &batch, *name != 0, room);
        pd_stream_unref(stream);
    } else {
        pd_notice_refuse(push->notice, rc, records, error.text);
        pd_engine_give_room(push->engine, room);
    }
}

/* A message that is a batch. */
static void store_batch(struct pd_push *push, nng_msg *message)
{
    const pd_options *options = &push->engine->options;
    struct pd_batch_limits limits = {options->max_batch, options->max_record};
    struct pd_batch_header header;
    pd_error error;
    const uint8_t *data = push->nng->nng_msg_body(message);
    size_t length = push->nng->nng_msg_len(message);
    int rc = pd_batch_check(data, length, &limits, &header, &error);
    if (rc == PD_OK) {
        store(push, "", data, header.record_count, length);
    } else {
        pd_notice_refuse(push->notice, rc, 1, error.text);
        pd_engine_give_room(push->engine, length);
    }
    push->nng->nng_msg_free(message);
}

/* Append what was collected for the stream of that name. */
static void store_run(struct pd_push *push, const char *name)
{
    struct pd_plain_batch *batch = &push->batch;
    size_t room = 0;
    if (batch->record_count == 0)
        return;
    for (uint32_t i = 0; i < batch->record_count; i++)
        room += push->nng->nng_msg_len(push->run[i]);
    if (pd_reserve((void **)&push->scratch, &push->scratch_capacity, pd_plain_length(batch), 1)) {
        pd_plain_write(batch, pd_wall_ns(), push->scratch);
        store(push, name, push->scratch, batch->record_count, room);
    } else {
        pd_notice_refuse(push->notice, PD_LIMIT_REACHED, batch->record_count, "no memory for a batch");
        pd_engine_give_room(push->engine, room);
    }
    if (push->scratch_capacity > SCRATCH_KEPT) {
        free(push->scratch);
        push->scratch = NULL;
        push->scratch_capacity = 0;
    }
    for (uint32_t i = 0; i < batch->record_count; i++)
        push->nng->nng_msg_free(push->run[i]);
    pd_plain_begin(batch);
}

/* A message that is a record: `name` is the stream of those that were collected, and of this one afterwards. */
static void collect(struct pd_push *push, nng_msg *message, char *name)
{
    struct pd_plain_batch *batch = &push->batch;
    struct pd_plain plain;
    pd_error error;
    char subject[PD_SUBJECT_MAX + 1];
    char owner[PD_NAME_MAX + 1] = "";
    size_t length = push->nng->nng_msg_len(message);
    int rc = pd_plain_parse(push->nng->nng_msg_body(message), length, push->engine->options.max_record, &plain, &error);
    if (rc == PD_OK) {
        memcpy(subject, plain.subject.data, plain.subject.length);
        subject[plain.subject.length] = 0;
        rc = pd_stream_find(push->engine, subject, owner, sizeof owner, &error);
    }
    if (rc != PD_OK) {
        pd_notice_refuse(push->notice, rc, 1, error.text);
        pd_engine_give_room(push->engine, length);
        push->nng->nng_msg_free(message);
        return;
    }
    if (strcmp(owner, name) != 0 || !pd_plain_add(batch, &plain, BATCH_ROOM)) {
        store_run(push, name);
        memcpy(name, owner, sizeof owner);
        pd_plain_add(batch, &plain, BATCH_ROOM);
    }
    push->run[batch->record_count - 1] = message;
}

/* The next message; NULL when there is none, after waiting for one if `wait`, and with the last one gone. */
static nng_msg *next_message(struct pd_push *push, bool wait)
{
    nng_msg *message = NULL;
    pthread_mutex_lock(&push->lock);
    while (wait && push->queue_count == 0 && !push->quiet)
        pthread_cond_wait(&push->wake, &push->lock);
    if (push->queue_count > 0) {
        message = push->queue[push->queue_head];
        push->queue_head = (push->queue_head + 1) % PD_PUSH_QUEUE;
        push->queue_count--;
        push->queue_bytes -= push->nng->nng_msg_len(message);
    }
    pthread_mutex_unlock(&push->lock);
    if (message != NULL)
        pd_push_receive(push);
    return message;
}

static void *run(void *context)
{
    struct pd_push *push = context;
    char name[PD_NAME_MAX + 1] = "";
    pthread_setname_np(pthread_self(), "pd-push");
    for (;;) {
        bool collected = push->batch.record_count > 0;
        nng_msg *message = next_message(push, !collected);
        if (message == NULL && !collected)
            return NULL;
        if (message == NULL) {
            store_run(push, name);
        } else if (pd_plain_is_batch(push->nng->nng_msg_body(message), push->nng->nng_msg_len(message))) {
            store_run(push, name); /* so that a program's messages keep their order */
            store_batch(push, message);
        } else {
            collect(push, message, name);
        }
    }
}

/* nng is done with the receive. */
static void on_receive(void *context)
{
    struct pd_push *push = context;
    if (push->nng->nng_aio_result(push->aio) != 0) { /* closed: a receive fails for nothing else */
        pthread_mutex_lock(&push->lock);
        push->receiving = false;
        pthread_mutex_unlock(&push->lock);
        return;
    }
    nng_msg *message = push->nng->nng_aio_get_msg(push->aio);
    size_t length = push->nng->nng_msg_len(message);
    push->nng->nng_aio_set_msg(push->aio, NULL);
    atomic_fetch_add(&push->engine->pending_bytes, length);
    pd_count(&push->notice->push_messages, 1);
    pthread_mutex_lock(&push->lock);
    push->queue[(push->queue_head + push->queue_count++) % PD_PUSH_QUEUE] = message;
    push->queue_bytes += length;
    push->receiving = false;
    pthread_cond_broadcast(&push->wake);
    pthread_mutex_unlock(&push->lock);
    pd_push_receive(push);
}

void pd_push_receive(struct pd_push *push)
{
    bool room = atomic_load(&push->engine->pending_bytes) < push->engine->options.max_pending_appends;
    pthread_mutex_lock(&push->lock);
    bool begin = room && !push->receiving && !push->quiet && push->queue_count < PD_PUSH_QUEUE &&
                 (push->queue_count == 0 || push->queue_bytes < push->buffer);
    push->receiving = push->receiving || begin;
    pthread_mutex_unlock(&push->lock);
    if (begin)
        push->nng->nng_recv_aio(push->socket, push->aio);
}

static int listen_on(struct pd_push *push, pd_listen *listens, uint32_t count, pd_error *error)
{
    const struct pd_nng *nng = push->nng;
    const pd_options *options = &push->engine->options;
    int rv = nng->nng_pull0_open(&push->socket);
    if (rv == 0)
        rv = nng->nng_aio_alloc(&push->aio, on_receive, push);
    if (rv == 0)
        rv = nng->nng_socket_set_size(push->socket, "recv-size-max",
                                      pd_max64(options->max_batch, options->max_record + PD_SUBJECT_MAX + 1));
    if (rv != 0)
        return pd_fail(error, PD_IO_ERROR, "nng gives no socket: %s", nng->nng_strerror(rv));
    return pd_listen_all(nng, push->socket, PD_SOCKET_PUSH, listens, count, error);
}

int pd_push_open(struct pd_push *push, pd_engine *engine, const struct pd_nng *nng, struct pd_notice *notice,
                 pd_listen *listens, uint32_t listen_count, const pd_broker_options *options, pd_error *error)
{
    push->engine = engine;
    push->nng = nng;
    push->notice = notice;
    push->buffer = options->push_buffer;
    push->durability = (enum pd_durability)options->push_durability;
    pthread_mutex_init(&push->lock, NULL);
    pthread_cond_init(&push->wake, NULL);
    for (size_t i = 0; i < PD_PUSH_APPENDS; i++) {
        push->appends[i].next = push->idle;
        push->idle = &push->appends[i];
    }
    int rc = listen_on(push, listens, listen_count, error);
    if (rc != PD_OK)
        return rc;
    push->running = pthread_create(&push->thread, NULL, run, push) == 0;
    if (!push->running)
        return pd_fail(error, PD_LIMIT_REACHED, "the system gives no more threads");
    pd_push_receive(push);
    return PD_OK;
}

void pd_push_quiesce(struct pd_push *push)
{
    if (!push->running)
        return;
    push->nng->nng_aio_stop(push->aio); /* what it had received is in the queue now */
    pthread_mutex_lock(&push->lock);
    push->quiet = true;
    pthread_cond_broadcast(&push->wake);
    pthread_mutex_unlock(&push->lock);
    pthread_join(push->thread, NULL);
    push->running = false;
}

void pd_push_fini(struct pd_push *push)
{
    if (push->nng == NULL)
        return;
    pd_push_quiesce(push);
    if (push->socket.id != 0)
        push->nng->nng_close(push->socket);
    if (push->aio != NULL)
        push->nng->nng_aio_free(push->aio);
    while (push->queue_count > 0) { /* when the thread never ran */
        push->nng->nng_msg_free(push->queue[push->queue_head]);
        push->queue_head = (push->queue_head + 1) % PD_PUSH_QUEUE;
        push->queue_count--;
    }
    free(push->scratch);
    push->scratch = NULL;
    push->nng = NULL;
}
