/* The gate: batches for streams that validate wait here until Python has looked at their records. */
#include "gate.h"

#include "engine.h"

#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

void pd_gate_init(struct pd_gate *gate)
{
    pthread_mutex_init(&gate->lock, NULL);
    pthread_cond_init(&gate->idle, NULL);
    gate->parked_end = &gate->parked;
    gate->event_fd = -1;
}

int pd_gate_park(struct pd_gate *gate, struct pd_gated *gated, pd_error *error)
{
    uint64_t one = 1;
    int rc = PD_OK;
    pthread_mutex_lock(&gate->lock);
    if (gate->closed) {
        rc = pd_fail(error, PD_STOPPING, "the daemon is stopping");
    } else if (gate->event_fd < 0) {
        rc = pd_fail(error, PD_UNCHECKED, "nobody checks what is published to stream %s", gated->stream->name);
    } else if (gate->count >= PD_GATE_BATCHES) {
        rc = pd_fail(error, PD_LIMIT_REACHED, "%u batches wait to be checked, which is the limit", PD_GATE_BATCHES);
    } else {
        gated->next = NULL;
        gated->token = 0;
        *gate->parked_end = gated;
        gate->parked_end = &gated->next;
        gate->count++;
        if (write(gate->event_fd, &one, sizeof one) < 0)
            one = 0; /* the counter is far from full, and an eventfd fails for nothing else */
    }
    pthread_mutex_unlock(&gate->lock);
    return rc;
}

void pd_gate_close(struct pd_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    struct pd_gated *parked = gate->parked;
    gate->closed = true;
    gate->parked = NULL;
    gate->parked_end = &gate->parked;
    gate->count = 0;
    while (gate->answering > 0)
        pthread_cond_wait(&gate->idle, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
    while (parked != NULL) {
        struct pd_gated *gated = parked;
        struct pd_stream *stream = gated->stream;
        parked = gated->next;
        gated->refuse(gated, PD_STOPPING, "the daemon is stopping");
        pd_stream_unref(stream);
    }
}

void pd_gate_fini(struct pd_gate *gate)
{
    if (gate->event_fd >= 0)
        close(gate->event_fd);
    pthread_cond_destroy(&gate->idle);
    pthread_mutex_destroy(&gate->lock);
}

int pd_gate_open(pd_engine *engine, int *event_fd, pd_error *error)
{
    struct pd_gate *gate = &engine->gate;
    int made = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (made < 0)
        return pd_fail_errno(error, "cannot make", "an eventfd");
    pthread_mutex_lock(&gate->lock);
    bool first = gate->event_fd < 0;
    if (first)
        gate->event_fd = made;
    pthread_mutex_unlock(&gate->lock);
    *event_fd = made;
    if (first)
        return PD_OK;
    close(made);
    return pd_fail(error, PD_EXISTS, "the gate was opened already");
}

int pd_gate_take(pd_engine *engine, uint64_t *token, char *stream, uint8_t **batch, size_t *length, uint32_t *wants)
{
    struct pd_gate *gate = &engine->gate;
    uint64_t count;
    pthread_mutex_lock(&gate->lock);
    struct pd_gated *gated = gate->parked;
    while (gated != NULL && gated->token != 0)
        gated = gated->next;
    uint8_t *copy = gated != NULL ? malloc(gated->batch.header.length) : NULL;
    if (copy != NULL) {
        gated->token = *token = ++gate->last_token;
        *batch = copy;
        *length = gated->batch.header.length;
        *wants = (gated->refuse_some != NULL ? PD_GATE_APART : 0) | (gated->needs_subjects ? PD_GATE_SUBJECTS : 0);
        memcpy(copy, gated->batch.data, *length);
        memcpy(stream, gated->stream->name, PD_NAME_MAX + 1);
    } else if (gated == NULL && gate->event_fd >= 0 && read(gate->event_fd, &count, sizeof count) < 0) {
        count = 0; /* it was not set: nothing had come since the last time */
    }
    pthread_mutex_unlock(&gate->lock);
    return copy != NULL;
}

static struct pd_gated *take_out(struct pd_gate *gate, uint64_t token)
{
    pthread_mutex_lock(&gate->lock);
    struct pd_gated **place = &gate->parked;
    while (*place != NULL && (*place)->token != token)
        place = &(*place)->next;
    struct pd_gated *gated = *place;
    if (gated != NULL) {
        *place = gated->next;
        if (gate->parked_end == &gated->next)
            gate->parked_end = place;
        gate->count--;
        gate->answering++;
    }
    pthread_mutex_unlock(&gate->lock);
    return gated; /* NULL: the engine was stopped, which has answered it */
}

static void settle(pd_engine *engine, struct pd_gated *gated, int status, const char *why)
{
    struct pd_gate *gate = &engine->gate;
    struct pd_stream *stream = gated->stream;
    pd_error error;
    if (status == PD_OK) {
        gated->batch.checked = true;
        status = pd_stream_append(stream, &gated->batch, gated->durability, &gated->expect, gated->pending, &error);
        why = error.text;
    } else {
        pd_count(&engine->counters.refused, 1);
    }
    if (status != PD_OK) /* else it is the commit thread's by now */
        gated->refuse(gated, status, why);
    pd_stream_unref(stream);
    pthread_mutex_lock(&gate->lock);
    if (--gate->answering == 0)
        pthread_cond_broadcast(&gate->idle);
    pthread_mutex_unlock(&gate->lock);
}

void pd_gate_answer(pd_engine *engine, uint64_t token, int status, const char *why)
{
    struct pd_gated *gated = take_out(&engine->gate, token);
    if (gated != NULL)
        settle(engine, gated, status, why);
}

void pd_gate_answer_rest(pd_engine *engine, uint64_t token, const uint8_t *rest, size_t length, uint32_t refused,
                         const char *why)
{
    struct pd_batch_limits limits = {engine->options.max_batch, engine->options.max_record};
    struct pd_batch_header header;
    pd_error error;
    struct pd_gated *gated = take_out(&engine->gate, token);
    if (gated == NULL)
        return;
    int rc = gated->refuse_some != NULL ? pd_batch_check(rest, length, &limits, &header, &error) : PD_INVALID;
    if (rc == PD_OK) {
        gated->batch.data = rest;
        gated->batch.header = header;
        gated->refuse_some(gated, refused, why);
    }
    settle(engine, gated, rc, why);
}
