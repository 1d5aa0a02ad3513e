/* The engine: all streams, the threads that serve them, and the counters. The functions of the boundary that
 * concern one stream or consumer are in api.c. */
#include "engine.h"

#include "broker.h"
#include "subject.h"

#include <stdio.h>
#include <stdlib.h>

static int check_options(const pd_options *options, pd_error *error)
{
    if (options->segment_size < 4096 || options->segment_size > (uint64_t)1 << 40)
        return pd_fail(error, PD_INVALID, "segment_size is %llu; it is from 4 KiB to 1 TiB",
                       (unsigned long long)options->segment_size);
    if (options->max_batch < 4096 || options->max_batch > (uint64_t)1 << 30)
        return pd_fail(error, PD_INVALID, "max_batch is %llu; it is from 4 KiB to 1 GiB",
                       (unsigned long long)options->max_batch);
    if (options->max_record == 0 || options->max_streams == 0)
        return pd_fail(error, PD_INVALID, "max_record and max_streams are at least 1");
    return PD_OK;
}

static int start(pd_engine *engine, pd_error *error)
{
    int rc = pd_hash_key_make(&engine->hash_key, error);
    if (rc == PD_OK && engine->options.zstd != NULL) {
        rc = pd_pool_init(&engine->frames, engine->options.zstd, engine->options.decompressed_cache, error);
        engine->pool = &engine->frames;
        engine->options.zstd = NULL; /* the caller's */
    }
    if (rc == PD_OK)
        rc = pd_make_directory(engine->directory, error);
    if (rc == PD_OK)
        rc = pd_completions_init(&engine->completions, error);
    if (rc == PD_OK)
        rc = pd_advisories_init(&engine->advisories, engine->completions.event_fd, error);
    if (rc != PD_OK)
        return rc;
    engine->router = pd_router_alloc();
    engine->streams = calloc(engine->options.max_streams, sizeof *engine->streams);
    if (engine->router == NULL || engine->streams == NULL)
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for the engine");
    if (pd_commit_start(&engine->commit) != 0 || pd_timer_start(&engine->timer, engine) != 0)
        return pd_fail(error, PD_LIMIT_REACHED, "the system gives no more threads");
    return PD_OK;
}

int pd_engine_open(const char *directory, const pd_options *options, pd_engine **made, int *event_fd, pd_error *error)
{
    int rc = check_options(options, error);
    if (rc != PD_OK)
        return rc;
    pd_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL || (engine->directory = strdup(directory)) == NULL) {
        free(engine);
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for the engine");
    }
    engine->options = *options;
    engine->completions.event_fd = -1;
    pd_gate_init(&engine->gate);
    pd_packer_init(&engine->packer, options->zstd != NULL ? &engine->frames.zstd : NULL);
    pthread_mutex_init(&engine->opening, NULL);
    pthread_mutex_init(&engine->lock, NULL);
    if ((rc = start(engine, error)) != PD_OK) {
        pd_engine_stop(engine);
        pd_engine_free(engine);
        return rc;
    }
    *event_fd = engine->completions.event_fd;
    *made = engine;
    return PD_OK;
}

void pd_engine_stop(pd_engine *engine)
{
    if (atomic_exchange(&engine->stopping, true))
        return;
    struct pd_broker *broker = atomic_load(&engine->broker);
    if (broker != NULL)
        pd_broker_quiesce(broker);
    pd_gate_close(&engine->gate);
    pd_packer_stop(&engine->packer);
    pd_commit_stop(&engine->commit);
    pthread_mutex_lock(&engine->opening);
    for (uint32_t i = 0; i < engine->stream_count; i++)
        pd_stream_close(engine->streams[i], PD_STOPPING);
    pthread_mutex_unlock(&engine->opening);
    pd_timer_stop(&engine->timer);
    if (broker != NULL)
        pd_broker_close(broker);
}

void pd_engine_free(pd_engine *engine)
{
    pd_broker_free(atomic_load(&engine->broker));
    for (uint32_t i = 0; i < engine->stream_count; i++)
        pd_stream_unref(engine->streams[i]);
    pd_commit_fini(&engine->commit);
    pd_gate_fini(&engine->gate);
    pd_packer_fini(&engine->packer);
    pd_completions_fini(&engine->completions);
    pd_advisories_fini(&engine->advisories);
    pd_router_free(engine->router);
    free(engine->streams);
    if (engine->pool != NULL)
        pd_pool_fini(engine->pool);
    pthread_mutex_destroy(&engine->opening);
    pthread_mutex_destroy(&engine->lock);
    free(engine->directory);
    free(engine);
}

void pd_engine_statistics(pd_engine *engine, pd_statistics *out)
{
    struct pd_counters *counters = &engine->counters;
    *out = (pd_statistics){
        .appends = atomic_load(&counters->appends),
        .appended_records = atomic_load(&counters->appended_records),
        .appended_bytes = atomic_load(&counters->appended_bytes),
        .duplicates = atomic_load(&counters->duplicates),
        .syncs = atomic_load(&counters->syncs),
        .refused = atomic_load(&counters->refused),
        .delivered_records = atomic_load(&counters->delivered_records),
        .acks = atomic_load(&counters->acks),
        .requests = atomic_load(&counters->requests),
        .bad_requests = atomic_load(&counters->bad_requests),
    };
}

static struct pd_stream *find_locked(pd_engine *engine, const char *name)
{
    for (uint32_t i = 0; i < engine->stream_count; i++)
        if (strcmp(engine->streams[i]->name, name) == 0)
            return engine->streams[i];
    return NULL;
}

struct pd_stream *pd_engine_stream(pd_engine *engine, const char *name, pd_error *error)
{
    pthread_mutex_lock(&engine->lock);
    struct pd_stream *stream = find_locked(engine, name);
    if (stream != NULL)
        pd_stream_ref(stream);
    pthread_mutex_unlock(&engine->lock);
    if (stream == NULL)
        pd_fail(error, PD_NO_STREAM, "there is no stream %.64s", name);
    return stream;
}

struct pd_stream *pd_engine_route(pd_engine *engine, const char *subject)
{
    pthread_mutex_lock(&engine->lock);
    struct pd_stream *stream = pd_router_find(engine->router, subject, strlen(subject));
    if (stream != NULL)
        pd_stream_ref(stream);
    pthread_mutex_unlock(&engine->lock);
    return stream;
}

size_t pd_engine_streams(pd_engine *engine, struct pd_stream ***streams)
{
    pthread_mutex_lock(&engine->lock);
    size_t count = engine->stream_count;
    *streams = malloc((count + 1) * sizeof **streams);
    if (*streams == NULL)
        count = 0;
    for (size_t i = 0; i < count; i++) {
        (*streams)[i] = engine->streams[i];
        pd_stream_ref(engine->streams[i]);
    }
    pthread_mutex_unlock(&engine->lock);
    return count;
}

/* The stream for all subjects of the batch; the engine's lock is held. */
static int route(pd_engine *engine, const char *name, const struct pd_batch_view *batch, struct pd_stream **stream,
                 pd_error *error)
{
    const uint8_t *at = batch->data + PD_BATCH_HEADER;
    *stream = *name != 0 ? find_locked(engine, name) : NULL;
    if (*name != 0 && *stream == NULL)
        return pd_fail(error, PD_NO_STREAM, "there is no stream %.64s", name);
    for (uint32_t i = 0; i < batch->header.subject_count; i++, at += 1 + *at) {
        const char *subject = (const char *)at + 1;
        struct pd_stream *owner = pd_router_find(engine->router, subject, *at);
        if (*stream == NULL)
            *stream = owner;
        if (owner == NULL && *name == 0)
            return pd_fail(error, PD_NOT_CAPTURED, "no stream captures the subject %.*s", (int)*at, subject);
        if (owner != *stream && *name != 0)
            return pd_fail(error, PD_NOT_CAPTURED, "stream %s does not capture the subject %.*s", name, (int)*at,
                           subject);
        if (owner != *stream)
            return pd_fail(error, PD_SPANS_STREAMS,
                           "the batch is for streams %s and %s (by its subject %.*s); it may "
                           "be for one",
                           (*stream)->name, owner->name, (int)*at, subject);
    }
    return PD_OK;
}

int pd_engine_owner(pd_engine *engine, const char *name, const struct pd_batch_view *batch, struct pd_stream **stream,
                    pd_error *error)
{
    pthread_mutex_lock(&engine->lock);
    int rc = route(engine, name, batch, stream, error);
    if (rc == PD_OK)
        pd_stream_ref(*stream);
    pthread_mutex_unlock(&engine->lock);
    return rc;
}

int pd_engine_accept(pd_engine *engine, const char *name, const uint8_t *data, size_t length,
                     struct pd_batch_view *batch, struct pd_stream **stream, pd_error *error)
{
    struct pd_batch_limits limits = {engine->options.max_batch, engine->options.max_record};
    if (atomic_load(&engine->stopping))
        return pd_fail(error, PD_STOPPING, "the daemon is stopping");
    int rc = pd_batch_check(data, length, &limits, &batch->header, error);
    batch->data = data;
    batch->checked = false;
    if (rc == PD_OK)
        rc = pd_engine_owner(engine, name, batch, stream, error);
    if (rc != PD_OK)
        pd_count(&engine->counters.refused, 1);
    return rc;
}

bool pd_engine_take_room(pd_engine *engine, size_t bytes)
{
    uint_fast64_t taken = atomic_load(&engine->pending_bytes);
    do {
        if (taken > 0 && taken + bytes > engine->options.max_pending_appends)
            return false;
    } while (!atomic_compare_exchange_weak(&engine->pending_bytes, &taken, taken + bytes));
    return true;
}

void pd_engine_give_room(pd_engine *engine, size_t bytes)
{
    atomic_fetch_sub(&engine->pending_bytes, bytes);
    struct pd_broker *broker = atomic_load(&engine->broker);
    if (broker != NULL)
        pd_broker_resume(broker);
}
