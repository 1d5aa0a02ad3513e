/* The broker: the four sockets, and what the two with answers, the doors, do with requests.
 *
 * Ingest: a batch is checked and appended by the door's thread, in the order in which it came, and answered
 * by the commit thread when it is as durable as was asked. When more bytes wait for the disk than
 * max_pending_appends the door stops receiving, and the producers feel it. Between the two a batch for a stream that
 * validates waits at the gate, and so does one that expects a sequence on a subject of a stream that must read its log
 * to know it.
 *
 * Fetch: what there is goes out at once; a fetch that finds nothing is parked on its consumer and answered by
 * whoever makes something visible, or by the timer.
 */
#include "broker.h"

#include "door.h"
#include "engine.h"
#include "live.h"
#include "push.h"

#include <stdlib.h>

#define INGEST_CONTEXTS 256 /* appends that are under way at once */
#define FETCH_SLACK     64  /* contexts beside those of the long polls */
#define NNG_HEADER      64  /* bytes that nng puts before a request: its id, and those of devices on the way */

struct pd_broker {
    struct pd_nng nng;
    atomic_bool open; /* all of the sockets */
    struct pd_door ingest;
    struct pd_door fetch;
    struct pd_push push;
    struct pd_live live;
    struct pd_notice notice;
};

#define WORK_OF(pointer, member) ((struct pd_work *)((char *)(pointer)-offsetof(struct pd_work, member)))

static void publish_finished(struct pd_pending *pending)
{
    struct pd_work *work = WORK_OF(pending, pending);
    if (pending->status != PD_OK) {
        pd_work_refuse(work, pending->status, pending->error.text);
        return;
    }
    struct pd_reply reply = {
        .op = PD_OP_PUBLISH,
        .r1 = pending->first_sequence,
        .r2 = pending->appended,
        .r3 = pending->duplicates,
    };
    char stream[PD_NAME_MAX + 1];
    memcpy(stream, pending->stream, sizeof stream);
    if (pending->bitmap != NULL) {
        size_t length = (pending->record_count + 7) / 8;
        uint8_t *body = pd_work_reserve(work, strlen(stream), length);
        if (body != NULL)
            memcpy(body, pending->bitmap, length);
        free(pending->bitmap);
        pending->bitmap = NULL;
    }
    pd_work_answer(work, &reply, stream);
}

static void refuse_gated(struct pd_gated *gated, int status, const char *why)
{
    pd_work_refuse(WORK_OF(gated, gated), status, why);
}

static void handle_ingest(struct pd_work *work, const struct pd_request *request)
{
    pd_engine *engine = work->door->engine;
    struct pd_batch_view batch;
    struct pd_stream *stream;
    pd_error error;
    uint32_t durability = request->flags & ~PD_WIRE_ON_SUBJECT;
    if (request->op != PD_OP_PUBLISH || durability > PD_DURABLE_FSYNC) {
        pd_fail(&error, PD_INVALID, "the ingest socket takes publish (1) with durability 0 to 2, not op %u with %u",
                request->op, request->flags);
        pd_work_refuse(work, PD_INVALID, error.text);
        return;
    }
    int rc = pd_engine_accept(engine, request->stream, request->body, request->body_length, &batch, &stream, &error);
    if (rc == PD_OK) {
        work->pending.finish = publish_finished;
        bool on_subject = (request->flags & PD_WIRE_ON_SUBJECT) != 0;
        uint64_t last_on_subject = request->arg2 | (uint64_t)request->arg3 << 32;
        const struct pd_expectation expect = {request->arg1, on_subject ? last_on_subject : PD_NO_EXPECTATION};
        bool needs_subjects = on_subject && !pd_stream_knows_subjects(stream);
        rc = needs_subjects
                 ? PD_UNCHECKED
                 : pd_stream_append(stream, &batch, (enum pd_durability)durability, &expect, &work->pending, &error);
        if (rc == PD_UNCHECKED) {
            work->gated = (struct pd_gated){
                .stream = stream,
                .batch = batch,
                .pending = &work->pending,
                .expect = expect,
                .durability = (enum pd_durability)durability,
                .needs_subjects = needs_subjects,
                .refuse = refuse_gated,
            };
            pd_stream_ref(stream); /* the gate's, if it takes it */
            rc = pd_gate_park(&engine->gate, &work->gated, &error);
            if (rc != PD_OK)
                pd_stream_unref(stream);
        }
        pd_stream_unref(stream);
    }
    if (rc != PD_OK) /* else the work is the commit thread's or the gate's by now */
        pd_work_refuse(work, rc, error.text);
}

static bool fetch_alive(const struct pd_fetch *fetch)
{
    const struct pd_work *work = WORK_OF(fetch, fetch);
    return pd_door_pipe_alive(work->door, fetch->owner);
}

static uint8_t *fetch_reserve(struct pd_fetch *fetch, size_t size)
{
    return pd_work_reserve(WORK_OF(fetch, fetch), 0, size);
}

static void stop_counting(struct pd_work *work)
{
    if (work->counted)
        atomic_fetch_sub(&work->door->engine->waiting, 1);
    work->counted = false;
}

static void fetch_finished(struct pd_fetch *fetch)
{
    struct pd_work *work = WORK_OF(fetch, fetch);
    stop_counting(work);
    if (fetch->status != PD_OK) {
        pd_work_refuse(work, fetch->status, fetch->error.text);
        return;
    }
    struct pd_reply reply = {
        .op = PD_OP_FETCH,
        .r1 = fetch->lag,
        .r2 = fetch->records,
        .r3 = fetch->ack_pending,
    };
    pd_work_answer(work, &reply, "");
}

static int begin_fetch(struct pd_work *work, const struct pd_request *request, pd_error *error)
{
    pd_engine *engine = work->door->engine;
    uint32_t limit = engine->options.max_waiting_fetches;
    work->counted = request->arg1 > 0;
    if (work->counted && atomic_fetch_add(&engine->waiting, 1) >= limit)
        return pd_fail(error, PD_LIMIT_REACHED, "%u fetches wait, which is the limit", limit);
    uint64_t wait_ns = request->arg1 < UINT64_MAX / 1000000u ? request->arg1 * 1000000u : UINT64_MAX;
    struct pd_stream *stream = pd_engine_stream(engine, request->stream, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    work->fetch = (struct pd_fetch){
        .max_records = request->arg2,
        .max_bytes = request->arg3,
        .deadline_ns = wait_ns > 0 ? pd_add_saturating(pd_mono_ns(), wait_ns) : 0,
        .owner = work->door->nng->nng_msg_get_pipe(work->request).id,
        .alive = fetch_alive,
        .reserve = fetch_reserve,
        .finish = fetch_finished,
    };
    int rc = pd_stream_fetch(stream, request->consumer, &work->fetch, error);
    pd_stream_unref(stream);
    return rc;
}

static int handle_acks(struct pd_work *work, const struct pd_request *request, uint32_t *known, pd_error *error)
{
    pd_ack *acks = work->door->acks;
    uint32_t count = request->arg2;
    size_t fixed = count * sizeof *acks;
    if (count > PD_WIRE_ACKS_MAX || request->body_length < fixed)
        return pd_fail(error, PD_INVALID, "%u acknowledgements in %zu bytes; each has %zu, and %u are the limit", count,
                       request->body_length, sizeof *acks, PD_WIRE_ACKS_MAX);
    struct pd_stream *stream = pd_engine_stream(work->door->engine, request->stream, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    memcpy(acks, request->body, fixed);
    struct pd_acks all = {acks, count, request->body + fixed, request->body_length - fixed};
    int rc = pd_stream_ack(stream, request->consumer, &all, known, error);
    pd_stream_unref(stream);
    return rc;
}

static void handle_fetch(struct pd_work *work, const struct pd_request *request)
{
    pd_error error = {""};
    struct pd_reply reply = {.op = PD_OP_ACK};
    int rc;
    switch (request->op) {
    case PD_OP_FETCH:
        rc = begin_fetch(work, request, &error);
        if (rc != PD_OK) { /* else the work is whoever's answers it by now */
            stop_counting(work);
            pd_work_refuse(work, rc, error.text);
        }
        return;
    case PD_OP_ACK:
        rc = handle_acks(work, request, &reply.r2, &error);
        if (rc == PD_OK)
            pd_work_answer(work, &reply, "");
        else
            pd_work_refuse(work, rc, error.text);
        return;
    default:
        pd_fail(&error, PD_INVALID, "the fetch socket takes fetch (2) and ack (3), not op %u", request->op);
        pd_work_refuse(work, PD_INVALID, error.text);
    }
}

static int check_options(const pd_broker_options *options, pd_error *error)
{
    if (options->push_durability > PD_DURABLE_FSYNC)
        return pd_fail(error, PD_INVALID, "push_durability is %u; it is 0 (memory), 1 (os) or 2 (fsync)",
                       options->push_durability);
    if (options->push_buffer < 4096 || options->live_buffer < 4096 || options->live_buffer > (uint64_t)1 << 40)
        return pd_fail(error, PD_INVALID, "push_buffer and live_buffer are at least 4 KiB");
    if (options->live_timeout_ms == 0 || options->live_timeout_ms > INT32_MAX)
        return pd_fail(error, PD_INVALID, "live_timeout is %llu ms; it is from 1 ms to 24 days",
                       (unsigned long long)options->live_timeout_ms);
    if (options->live_policy < PD_LIVE_DROP_OLDEST || options->live_policy > PD_LIVE_DISCONNECT)
        return pd_fail(error, PD_INVALID, "live_policy is %u; it is 1 (drop_oldest), 2 (block) or 3 (disconnect)",
                       options->live_policy);
    return PD_OK;
}

static int open_sockets(struct pd_broker *broker, pd_engine *engine, pd_listen *listens, uint32_t count,
                        const pd_broker_options *options, pd_error *error)
{
    const struct pd_nng *nng = &broker->nng;
    size_t batch = engine->options.max_batch + PD_WIRE_REQUEST_MAX + NNG_HEADER;
    size_t acks = PD_WIRE_ACKS_MAX * sizeof(pd_ack) + PD_WIRE_REASONS_MAX + PD_WIRE_REQUEST_MAX + NNG_HEADER;
    size_t polls = (size_t)engine->options.max_waiting_fetches + FETCH_SLACK;
    broker->ingest.holds_room = true;
    int rc = pd_live_open(&broker->live, engine, nng, &broker->notice, listens, count, options, error);
    if (rc == PD_OK)
        rc = pd_door_open(&broker->ingest, engine, nng, PD_SOCKET_INGEST, listens, count, batch, INGEST_CONTEXTS,
                          handle_ingest, error);
    if (rc == PD_OK)
        rc = pd_door_open(&broker->fetch, engine, nng, PD_SOCKET_FETCH, listens, count, acks, polls, handle_fetch,
                          error);
    if (rc == PD_OK)
        rc = pd_push_open(&broker->push, engine, nng, &broker->notice, listens, count, options, error);
    return rc;
}

int pd_broker_start(pd_engine *engine, void *const *functions, pd_listen *listens, uint32_t listen_count,
                    const pd_broker_options *options, pd_error *error)
{
    if (atomic_load(&engine->broker) != NULL)
        return pd_fail(error, PD_EXISTS, "the broker was started already");
    int rc = check_options(options, error);
    if (rc != PD_OK)
        return rc;
    struct pd_broker *broker = calloc(1, sizeof *broker);
    if (broker == NULL)
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for the broker");
    pd_notice_init(&broker->notice, engine);
    if (pd_nng_fill(&broker->nng, functions) != 0)
        rc = pd_fail(error, PD_INVALID, "a function of nng is missing; see pd_nng_names");
    if (rc == PD_OK)
        rc = open_sockets(broker, engine, listens, listen_count, options, error);
    /* Set also when it failed: connections may be there already, and what they sent, with the log by now. */
    atomic_store(&engine->broker, broker);
    atomic_store(&broker->open, rc == PD_OK);
    pd_broker_resume(broker);
    return rc;
}

void pd_broker_resume(struct pd_broker *broker)
{
    if (!atomic_load(&broker->open))
        return;
    pd_door_receive(&broker->ingest);
    pd_push_receive(&broker->push);
}

void pd_broker_quiesce(struct pd_broker *broker)
{
    pd_push_quiesce(&broker->push);
    pd_door_quiesce(&broker->ingest);
    pd_door_quiesce(&broker->fetch);
}

void pd_broker_close(struct pd_broker *broker)
{
    pd_push_fini(&broker->push);
    pd_door_fini(&broker->ingest);
    pd_door_fini(&broker->fetch);
    pd_live_fini(&broker->live);
}

void pd_broker_free(struct pd_broker *broker)
{
    if (broker != NULL)
        pd_notice_fini(&broker->notice);
    free(broker);
}

static int find_broker(pd_engine *engine, struct pd_broker **broker, pd_error *error)
{
    *broker = atomic_load(&engine->broker);
    return *broker != NULL ? PD_OK : pd_fail(error, PD_INVALID, "the broker was not started");
}

void pd_broker_statistics(pd_engine *engine, pd_socket_statistics *out)
{
    struct pd_broker *broker;
    *out = (pd_socket_statistics){0};
    if (find_broker(engine, &broker, NULL) != PD_OK)
        return;
    pd_notice_read(&broker->notice, out);
    out->live_subscribers = atomic_load(&broker->live.subscribers);
    out->live_waiting = atomic_load(&broker->live.waiting);
}

int pd_broker_watch(pd_engine *engine, uint64_t token, pd_error *error)
{
    struct pd_broker *broker;
    int rc = find_broker(engine, &broker, error);
    return rc == PD_OK ? pd_notice_watch(&broker->notice, token, error) : rc;
}
