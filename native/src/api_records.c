/* The boundary's functions about records: appending in process, and consumers. */
#include "engine.h"

#include <stdlib.h>

/* An append from this process, answered over the ring. */
struct local_append {
    struct pd_pending pending; /* first: finish gets its address */
    pd_engine *engine;
    uint64_t token;
    size_t bytes;
};

/* A fetch from this process that does not wait: malloc'ed memory for the block. */
struct local_fetch {
    struct pd_fetch fetch;
    uint8_t *block;
    size_t length;
};

/* A wait from this process, answered over the ring. */
struct local_wait {
    struct pd_fetch fetch;
    pd_engine *engine;
    uint64_t token;
};

static void finish_append(struct pd_pending *pending)
{
    struct local_append *append = (struct local_append *)pending;
    struct pd_finished_token finished = {
        .completion = {.token = append->token,
                       .first_sequence = pending->first_sequence,
                       .status = (uint32_t)pending->status,
                       .appended = pending->status == PD_OK ? pending->appended : 0,
                       .duplicates = pending->status == PD_OK ? pending->duplicates : 0},
        .bitmap = pending->bitmap,
        .record_count = pending->record_count,
    };
    pd_completions_put(&append->engine->completions, &finished);
    pd_engine_give_room(append->engine, append->bytes);
    free(append);
}

static int append_local(pd_engine *engine, const char *name, const uint8_t *data, size_t length, uint32_t durability,
                        const struct pd_expectation *expect, uint64_t token, pd_error *error)
{
    struct pd_batch_view batch;
    struct pd_stream *stream;
    int rc = pd_engine_accept(engine, name, data, length, &batch, &stream, error);
    if (rc != PD_OK)
        return rc;
    struct local_append *append = malloc(sizeof *append);
    if (append == NULL) {
        rc = pd_fail(error, PD_LIMIT_REACHED, "no memory for an append");
    } else {
        append->engine = engine;
        append->token = token;
        append->bytes = length;
        append->pending.finish = finish_append;
        batch.checked = true; /* by whoever calls, in this process */
        rc = pd_stream_append(stream, &batch, (enum pd_durability)durability, expect, &append->pending, error);
        if (rc != PD_OK)
            free(append);
    }
    pd_stream_unref(stream);
    return rc;
}

int pd_append(pd_engine *engine, const char *stream, const uint8_t *batch, size_t length, uint32_t durability,
              uint64_t expect_last_sequence, uint64_t token, pd_error *error)
{
    return pd_append_expecting(engine, stream, batch, length, durability, expect_last_sequence, PD_NO_EXPECTATION,
                               token, error);
}

int pd_append_expecting(pd_engine *engine, const char *stream, const uint8_t *batch, size_t length, uint32_t durability,
                        uint64_t expect_last_sequence, uint64_t expect_last_on_subject, uint64_t token, pd_error *error)
{
    const struct pd_expectation expect = {expect_last_sequence, expect_last_on_subject};
    if (durability > PD_DURABLE_FSYNC)
        return pd_fail(error, PD_INVALID, "durability is %u; it is 0 (memory), 1 (os) or 2 (fsync)", durability);
    if (!pd_engine_take_room(engine, length))
        return pd_fail(error, PD_LIMIT_REACHED, "%llu bytes of batches wait for the disk; the limit is %llu",
                       (unsigned long long)atomic_load(&engine->pending_bytes),
                       (unsigned long long)engine->options.max_pending_appends);
    int rc = PD_OK;
    if (!pd_completions_reserve(&engine->completions)) {
        rc = pd_fail(error, PD_LIMIT_REACHED, "%u completions were not taken yet, which is the limit", PD_TOKENS_MAX);
    } else {
        rc = append_local(engine, stream, batch, length, durability, &expect, token, error);
        if (rc != PD_OK)
            pd_completions_unreserve(&engine->completions);
    }
    if (rc != PD_OK)
        pd_engine_give_room(engine, length);
    return rc;
}

size_t pd_completions_take(pd_engine *engine, pd_completion *out, size_t capacity)
{
    return pd_completions_drain(&engine->completions, out, capacity);
}

size_t pd_advisories_take(pd_engine *engine, pd_advisory *out, size_t capacity)
{
    return pd_advisories_drain(&engine->advisories, out, capacity);
}

size_t pd_completion_duplicates(pd_engine *engine, uint64_t token, uint32_t *positions, size_t capacity)
{
    return pd_completions_duplicates(&engine->completions, token, positions, capacity);
}

int pd_consumer_open(pd_engine *engine, const char *stream_name, const char *name, const char *filter,
                     const pd_consumer_config *config, pd_error *error)
{
    struct pd_stream *stream = pd_engine_stream(engine, stream_name, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    int rc = pd_stream_consumer_open(stream, name, filter, config, error);
    pd_stream_unref(stream);
    return rc;
}

int pd_consumer_start(pd_engine *engine, const char *stream_name, const char *filter, const pd_start *start,
                      uint64_t *first_sequence, pd_error *error)
{
    struct pd_stream *stream = pd_engine_stream(engine, stream_name, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    int rc = pd_stream_start(stream, filter, start, first_sequence, error);
    pd_stream_unref(stream);
    return rc;
}

int pd_consumer_seek(pd_engine *engine, const char *stream_name, const char *name, const pd_start *start,
                     uint64_t *first_sequence, pd_error *error)
{
    struct pd_stream *stream = pd_engine_stream(engine, stream_name, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    int rc = pd_stream_seek(stream, name, start, first_sequence, error);
    pd_stream_unref(stream);
    return rc;
}

int pd_consumer_delete(pd_engine *engine, const char *stream_name, const char *name, pd_error *error)
{
    struct pd_stream *stream = pd_engine_stream(engine, stream_name, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    int rc = pd_stream_consumer_delete(stream, name, error);
    pd_stream_unref(stream);
    return rc;
}

int pd_consumer_info_get(pd_engine *engine, const char *stream_name, const char *name, pd_consumer_info *out,
                         pd_error *error)
{
    struct pd_stream *stream = pd_engine_stream(engine, stream_name, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    int rc = pd_stream_consumer_info(stream, name, out, error);
    pd_stream_unref(stream);
    return rc;
}

static uint8_t *reserve_local(struct pd_fetch *fetch, size_t size)
{
    struct local_fetch *local = (struct local_fetch *)fetch;
    local->block = malloc(size);
    local->length = local->block != NULL ? size : 0;
    return local->block;
}

static void finish_local(struct pd_fetch *fetch)
{
    (void)fetch; /* pd_consumer_fetch, which is below us on the stack, reads it */
}

int pd_consumer_fetch(pd_engine *engine, const char *stream_name, const char *name, uint32_t max_records,
                      uint32_t max_bytes, uint8_t **block, size_t *length, uint32_t *records, pd_error *error)
{
    struct local_fetch local = {
        .fetch = {
            .max_records = max_records, .max_bytes = max_bytes, .reserve = reserve_local, .finish = finish_local}};
    *block = NULL;
    *length = 0;
    *records = 0;
    struct pd_stream *stream = pd_engine_stream(engine, stream_name, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    int rc = pd_stream_fetch(stream, name, &local.fetch, error);
    pd_stream_unref(stream);
    if (rc != PD_OK) {
        free(local.block);
        return rc;
    }
    *block = local.block;
    *length = local.length;
    *records = local.fetch.records;
    return PD_OK;
}

static void finish_wait(struct pd_fetch *fetch)
{
    struct local_wait *wait = (struct local_wait *)fetch;
    pd_engine *engine = wait->engine;
    struct pd_finished_token finished = {
        .completion = {.token = wait->token, .status = (uint32_t)fetch->status, .appended = fetch->records}};
    atomic_fetch_sub(&engine->waiting, 1);
    pd_completions_put(&engine->completions, &finished);
    free(wait);
}

static int wait_local(pd_engine *engine, const char *stream_name, const char *name, uint64_t wait_ms, uint64_t token,
                      pd_error *error)
{
    struct pd_stream *stream = pd_engine_stream(engine, stream_name, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    struct local_wait *wait = calloc(1, sizeof *wait);
    int rc = wait != NULL ? PD_OK : pd_fail(error, PD_LIMIT_REACHED, "no memory for a wait");
    if (rc == PD_OK) {
        uint64_t wait_ns = wait_ms < UINT64_MAX / 1000000u ? wait_ms * 1000000u : UINT64_MAX;
        wait->engine = engine;
        wait->token = token;
        wait->fetch.notice = true;
        wait->fetch.max_records = 1;
        wait->fetch.deadline_ns = pd_add_saturating(pd_mono_ns(), wait_ns);
        wait->fetch.finish = finish_wait;
        rc = pd_stream_fetch(stream, name, &wait->fetch, error);
        if (rc != PD_OK)
            free(wait);
    }
    pd_stream_unref(stream);
    return rc;
}

int pd_consumer_wait(pd_engine *engine, const char *stream, const char *name, uint64_t wait_ms, uint64_t token,
                     pd_error *error)
{
    if (!pd_completions_reserve(&engine->completions))
        return pd_fail(error, PD_LIMIT_REACHED, "%u completions were not taken yet, which is the limit", PD_TOKENS_MAX);
    uint32_t limit = engine->options.max_waiting_fetches;
    int rc = PD_OK;
    if (atomic_fetch_add(&engine->waiting, 1) >= limit)
        rc = pd_fail(error, PD_LIMIT_REACHED, "%u fetches wait, which is the limit", limit);
    else
        rc = wait_local(engine, stream, name, wait_ms, token, error);
    if (rc != PD_OK) {
        atomic_fetch_sub(&engine->waiting, 1);
        pd_completions_unreserve(&engine->completions);
    }
    return rc;
}

int pd_consumer_ack(pd_engine *engine, const char *stream_name, const char *name, const pd_ack *acks, uint32_t count,
                    const uint8_t *reasons, size_t reasons_length, uint32_t *known, pd_error *error)
{
    struct pd_acks all = {acks, count, reasons, reasons_length};
    *known = 0;
    struct pd_stream *stream = pd_engine_stream(engine, stream_name, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    int rc = pd_stream_ack(stream, name, &all, known, error);
    pd_stream_unref(stream);
    return rc;
}
