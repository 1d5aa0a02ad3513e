/* The boundary's functions about streams. */
#include "engine.h"
#include "stream_internal.h"
#include "subject.h"

#include <stdio.h>
#include <stdlib.h>

static void free_subjects(char **subjects, uint32_t count)
{
    for (uint32_t i = 0; subjects != NULL && i < count; i++)
        free(subjects[i]);
    free(subjects);
}

static int copy_subjects(const char *name, const char *const *subjects, uint32_t count, char ***copy, pd_error *error)
{
    if (count == 0)
        return pd_fail(error, PD_INVALID, "stream %s has no subjects", name);
    *copy = calloc(count, sizeof **copy);
    for (uint32_t i = 0; *copy != NULL && i < count; i++) {
        const char *wrong = pd_subject_error(subjects[i], strlen(subjects[i]), true);
        if (wrong != NULL) {
            free_subjects(*copy, count);
            return pd_fail(error, PD_INVALID, "the subject '%.255s' of stream %s %s", subjects[i], name, wrong);
        }
        (*copy)[i] = strdup(subjects[i]);
        if ((*copy)[i] == NULL) {
            free_subjects(*copy, count);
            *copy = NULL;
        }
    }
    return *copy != NULL ? PD_OK : pd_fail(error, PD_LIMIT_REACHED, "no memory for the subjects of stream %s", name);
}

/* No other stream may capture what these do. The streams' subjects change only under `opening`. */
static int check_overlap(pd_engine *engine, const char *name, char **subjects, uint32_t count, pd_error *error)
{
    for (uint32_t i = 0; i < engine->stream_count; i++) {
        const struct pd_stream *other = engine->streams[i];
        if (strcmp(other->name, name) == 0)
            continue;
        for (uint32_t j = 0; j < other->subject_count; j++)
            for (uint32_t k = 0; k < count; k++)
                if (pd_patterns_overlap(subjects[k], strlen(subjects[k]), other->subjects[j],
                                        strlen(other->subjects[j])))
                    return pd_fail(error, PD_EXISTS, "stream %s captures %s, which overlaps %s of stream %s",
                                   other->name, other->subjects[j], subjects[k], name);
    }
    return PD_OK;
}

/* Build the router anew from all streams; the engine's lock is held. */
static int build_router(pd_engine *engine, pd_error *error)
{
    size_t count = 0;
    for (uint32_t i = 0; i < engine->stream_count; i++)
        count += engine->streams[i]->subject_count;
    struct pd_route *routes = malloc((count + 1) * sizeof *routes);
    size_t at = 0;
    for (uint32_t i = 0; routes != NULL && i < engine->stream_count; i++)
        for (uint32_t j = 0; j < engine->streams[i]->subject_count; j++)
            routes[at++] = (struct pd_route){engine->streams[i]->subjects[j], engine->streams[i]};
    bool built = routes != NULL && pd_router_build(engine->router, routes, count);
    free(routes);
    return built ? PD_OK : pd_fail(error, PD_LIMIT_REACHED, "no memory to route subjects");
}

static void swap_subjects(struct pd_stream *stream, char ***subjects, uint32_t *count)
{
    char **old = stream->subjects;
    uint32_t old_count = stream->subject_count;
    stream->subjects = *subjects;
    stream->subject_count = *count;
    *subjects = old;
    *count = old_count;
}

/* The stream takes the subjects; those that it had are freed. */
static int install_subjects(pd_engine *engine, struct pd_stream *stream, char **subjects, uint32_t count,
                            pd_error *error)
{
    pthread_mutex_lock(&engine->lock);
    swap_subjects(stream, &subjects, &count);
    int rc = build_router(engine, error);
    if (rc != PD_OK)
        swap_subjects(stream, &subjects, &count);
    pthread_mutex_unlock(&engine->lock);
    free_subjects(subjects, count);
    return rc;
}

static void remove_from_list(pd_engine *engine, const struct pd_stream *stream)
{
    for (uint32_t i = 0; i < engine->stream_count; i++)
        if (engine->streams[i] == stream)
            engine->streams[i--] = engine->streams[--engine->stream_count];
}

static int make_stream(pd_engine *engine, const char *name, char **subjects, uint32_t count,
                       const pd_stream_config *config, pd_error *error)
{
    struct pd_stream *stream = NULL;
    int rc = PD_OK;
    if (engine->stream_count == engine->options.max_streams)
        rc = pd_fail(error, PD_LIMIT_REACHED, "the engine has %u streams, which is the limit", engine->stream_count);
    else
        rc = pd_stream_alloc(engine, name, config, &stream, error);
    if (rc != PD_OK) {
        free_subjects(subjects, count);
        return rc;
    }
    pthread_mutex_lock(&engine->lock);
    engine->streams[engine->stream_count++] = stream;
    pthread_mutex_unlock(&engine->lock);
    rc = install_subjects(engine, stream, subjects, count, error);
    if (rc != PD_OK) {
        pthread_mutex_lock(&engine->lock);
        remove_from_list(engine, stream);
        pthread_mutex_unlock(&engine->lock);
        pd_stream_close(stream, rc);
        pd_stream_unref(stream);
        return rc;
    }
    pd_timer_schedule(&engine->timer, stream, 0); /* retention may be due */
    return PD_OK;
}

int pd_stream_open(pd_engine *engine, const char *name, const char *const *subjects, uint32_t subject_count,
                   const pd_stream_config *config, pd_error *error)
{
    char **copy = NULL;
    if (!pd_name_valid(name, strlen(name)))
        return pd_fail(error, PD_INVALID, "'%.64s' is not a stream's name: 1 to 63 of A-Z a-z 0-9 . _ -, no dot first",
                       name);
    pthread_mutex_lock(&engine->opening);
    int rc = atomic_load(&engine->stopping) ? pd_fail(error, PD_STOPPING, "the daemon is stopping")
                                            : copy_subjects(name, subjects, subject_count, &copy, error);
    if (rc == PD_OK && (rc = check_overlap(engine, name, copy, subject_count, error)) != PD_OK)
        free_subjects(copy, subject_count);
    if (rc == PD_OK) {
        struct pd_stream *stream = pd_engine_stream(engine, name, NULL);
        if (stream == NULL) {
            rc = make_stream(engine, name, copy, subject_count, config, error);
        } else {
            rc = install_subjects(engine, stream, copy, subject_count, error);
            if (rc == PD_OK)
                pd_stream_configure(stream, config);
            pd_stream_unref(stream);
        }
    }
    pthread_mutex_unlock(&engine->opening);
    return rc;
}

int pd_stream_delete(pd_engine *engine, const char *name, pd_error *error)
{
    int rc = PD_OK;
    pthread_mutex_lock(&engine->opening);
    struct pd_stream *stream = pd_engine_stream(engine, name, error);
    if (stream == NULL)
        rc = PD_NO_STREAM;
    if (rc == PD_OK) {
        pthread_mutex_lock(&engine->lock);
        remove_from_list(engine, stream);
        rc = build_router(engine, error);
        if (rc != PD_OK)
            engine->streams[engine->stream_count++] = stream;
        pthread_mutex_unlock(&engine->lock);
    }
    if (rc == PD_OK) {
        rc = pd_stream_remove(stream, error);
        pd_stream_unref(stream);
    }
    if (stream != NULL)
        pd_stream_unref(stream);
    pthread_mutex_unlock(&engine->opening);
    return rc;
}

int pd_stream_info_get(pd_engine *engine, const char *name, pd_stream_info *out, pd_error *error)
{
    struct pd_stream *stream = pd_engine_stream(engine, name, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    pd_stream_info_fill(stream, out);
    pd_stream_unref(stream);
    return PD_OK;
}

int pd_stream_find(pd_engine *engine, const char *subject, char *name, size_t name_size, pd_error *error)
{
    size_t length = strlen(subject);
    const char *wrong = pd_subject_error(subject, length, false);
    if (wrong != NULL)
        return pd_fail(error, PD_INVALID, "the subject '%.255s' %s", subject, wrong);
    pthread_mutex_lock(&engine->lock);
    const struct pd_stream *stream = pd_router_find(engine->router, subject, length);
    if (stream != NULL)
        snprintf(name, name_size, "%s", stream->name);
    pthread_mutex_unlock(&engine->lock);
    return stream != NULL ? PD_OK : pd_fail(error, PD_NOT_CAPTURED, "no stream captures the subject %.255s", subject);
}

int pd_stream_read(pd_engine *engine, const char *name, uint64_t after, const char *pattern, uint32_t max_records,
                   uint32_t max_bytes, uint8_t **block, size_t *length, uint32_t *records, pd_error *error)
{
    struct pd_stream *stream = pd_engine_stream(engine, name, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    int rc = pd_stream_look(stream, after, pattern, max_records, max_bytes, block, length, records, error);
    pd_stream_unref(stream);
    return rc;
}

int pd_stream_consumers_known(pd_engine *engine, const char *name, pd_error *error)
{
    struct pd_stream *stream = pd_engine_stream(engine, name, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    int rc = pd_stream_know_consumers(stream, error);
    pd_stream_unref(stream);
    return rc;
}

int pd_stream_know_subjects(pd_engine *engine, const char *name, pd_error *error)
{
    struct pd_stream *stream = pd_engine_stream(engine, name, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    pthread_mutex_lock(&stream->lock);
    int rc = pd_stream_index_require(stream, error);
    pd_stream_unlock(stream);
    pd_stream_unref(stream);
    return rc;
}

int pd_stream_purge(pd_engine *engine, const char *name, const char *pattern, uint64_t before, uint64_t keep,
                    uint64_t *removed, pd_error *error)
{
    *removed = 0;
    struct pd_stream *stream = pd_engine_stream(engine, name, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    int rc = pd_stream_purge_records(stream, pattern, before, keep, removed, error);
    pd_stream_unref(stream);
    return rc;
}

void pd_block_free(uint8_t *block)
{
    free(block);
}
