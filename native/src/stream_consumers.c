/* A stream's consumers: making, changing and removing them. */
#include "engine.h"
#include "stream_internal.h"
#include "subject.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void journal_path(const struct pd_stream *stream, const char *name, char *path, size_t size)
{
    snprintf(path, size, "%s/consumers/%s.state", stream->path, name);
}

static bool has_journal(const struct pd_stream *stream, const char *name)
{
    char path[PD_PATH_MAX];
    journal_path(stream, name, path, sizeof path);
    return access(path, F_OK) == 0;
}

static int change(struct pd_consumer *consumer, const char *filter, const pd_consumer_config *config, pd_error *error)
{
    if (strcmp(consumer->filter, filter) != 0)
        return pd_fail(error, PD_EXISTS, "consumer %s is there with the filter %s; a filter cannot change",
                       consumer->name, consumer->filter);
    if ((consumer->config.ack_policy == PD_ACK_NONE) != (config->ack_policy == PD_ACK_NONE))
        return pd_fail(error, PD_EXISTS, "consumer %s is there %s acknowledgements; that cannot change", consumer->name,
                       config->ack_policy == PD_ACK_NONE ? "with" : "without");
    return pd_consumer_change(consumer, config, error);
}

static int make(struct pd_stream *stream, const char *name, const char *filter, const pd_consumer_config *config,
                struct pd_picks *ahead, pd_error *error)
{
    char path[PD_PATH_MAX];
    pd_engine *engine = stream->engine;
    if (atomic_fetch_add(&engine->consumers, 1) >= engine->options.max_consumers) {
        atomic_fetch_sub(&engine->consumers, 1);
        return pd_fail(error, PD_LIMIT_REACHED, "the engine has %u consumers, which is the limit",
                       engine->options.max_consumers);
    }
    struct pd_consumer *consumer = malloc(sizeof *consumer);
    bool room = pd_reserve((void **)&stream->consumers, &stream->consumer_capacity, stream->consumer_count + 1,
                           sizeof(struct pd_consumer *));
    journal_path(stream, name, path, sizeof path);
    int rc = consumer != NULL && room ? pd_consumer_init(consumer, name, filter, config, path, &stream->log,
                                                         &stream->selection, ahead, error)
                                      : pd_fail(error, PD_LIMIT_REACHED, "no memory for consumer %s", name);
    if (rc != PD_OK) {
        free(consumer);
        atomic_fetch_sub(&engine->consumers, 1);
        return rc;
    }
    consumer->active_ns = pd_mono_ns();
    stream->consumers[stream->consumer_count++] = consumer;
    pd_stream_watch(stream);
    return PD_OK;
}

/* What opening or changing one may have left to do. */
static void watch(struct pd_stream *stream, struct pd_consumer *consumer)
{
    uint64_t idle = pd_stream_idle_due(consumer, consumer->active_ns);
    pd_stream_tell(stream, consumer);
    if (idle != UINT64_MAX)
        pd_timer_schedule(&stream->engine->timer, stream, idle);
}

int pd_stream_consumer_open(struct pd_stream *stream, const char *name, const char *filter,
                            const pd_consumer_config *config, pd_error *error)
{
    struct pd_finished finished;
    struct pd_picks ahead = {0};
    bool collected = false;
    const char *wrong = pd_subject_error(filter, strlen(filter), true);
    if (!pd_name_valid(name, strlen(name)))
        return pd_fail(error, PD_INVALID,
                       "'%.64s' is not a consumer's name: 1 to 63 of A-Z a-z 0-9 . _ -, no dot first", name);
    if (wrong != NULL)
        return pd_fail(error, PD_INVALID, "the filter '%.255s' of consumer %s %s", filter, name, wrong);
    int rc = pd_consumer_config_check(config, error);
    if (rc == PD_OK && config->newest_first && !has_journal(stream, name)) {
        rc = pd_stream_collect_newest(stream, filter, config->start_sequence - 1, &ahead, error);
        collected = true;
    }
    if (rc != PD_OK) {
        pd_picks_fini(&ahead);
        return rc;
    }
    pd_finished_init(&finished);
    pthread_mutex_lock(&stream->lock);
    if ((rc = pd_stream_check_open(stream, error)) == PD_OK) {
        struct pd_consumer *consumer = pd_stream_consumer(stream, name, NULL);
        rc = consumer == NULL ? pd_stream_check_work_queue(stream, name, filter, error) : PD_OK;
        if (rc == PD_OK)
            rc = consumer != NULL ? change(consumer, filter, config, error)
                                  : make(stream, name, filter, config, collected ? &ahead : NULL, error);
        if (rc == PD_OK)
            watch(stream, pd_stream_consumer(stream, name, NULL));
        pd_stream_erase_done(stream);
        pd_stream_serve(stream, &finished);
    }
    pd_stream_unlock(stream);
    pd_picks_fini(&ahead);
    pd_finished_tell(&finished);
    return rc;
}

static int remove_locked(struct pd_stream *stream, struct pd_consumer *consumer, struct pd_finished *finished,
                         pd_error *error)
{
    char path[PD_PATH_MAX];
    size_t at = 0;
    int rc = PD_OK;
    while (stream->consumers[at] != consumer)
        at++;
    stream->consumers[at] = stream->consumers[--stream->consumer_count];
    journal_path(stream, consumer->name, path, sizeof path);
    pd_stream_expel(consumer, pd_fetch_any, 0, PD_NO_CONSUMER, finished);
    pd_consumer_fini(consumer);
    free(consumer);
    atomic_fetch_sub(&stream->engine->consumers, 1);
    pd_stream_begin_sweep(stream); /* it may have been the last that wanted something */
    if (unlink(path) != 0 && errno != ENOENT)
        rc = pd_fail_errno(error, "cannot remove", path);
    snprintf(path, sizeof path, "%s/consumers", stream->path);
    if (rc == PD_OK) /* or it would come back with the old state after a power failure */
        rc = pd_sync_directory(path, error);
    return rc;
}

uint64_t pd_stream_idle_due(const struct pd_consumer *consumer, uint64_t now_ns)
{
    bool busy = consumer->waiting_count > 0 || pd_letters_count(&consumer->letters) > 0;
    if (consumer->config.inactive_ns == 0)
        return UINT64_MAX;
    return pd_add_saturating(busy ? now_ns : consumer->active_ns, consumer->config.inactive_ns);
}

void pd_stream_remove_idle(struct pd_stream *stream, uint64_t now_ns, struct pd_finished *finished)
{
    for (size_t i = stream->consumer_count; i > 0; i--) {
        struct pd_consumer *consumer = stream->consumers[i - 1];
        if (pd_stream_idle_due(consumer, now_ns) > now_ns)
            continue;
        pd_advise(&stream->engine->advisories, PD_ADVISE_CONSUMER_REMOVED, stream->name, consumer->name,
                  "nobody fetched or acknowledged for %llu s",
                  (unsigned long long)(consumer->config.inactive_ns / 1000000000u));
        remove_locked(stream, consumer, finished, NULL);
    }
}

int pd_stream_consumer_delete(struct pd_stream *stream, const char *name, pd_error *error)
{
    struct pd_finished finished;
    pd_finished_init(&finished);
    pthread_mutex_lock(&stream->lock);
    int rc = pd_stream_check_open(stream, error);
    struct pd_consumer *consumer = rc == PD_OK ? pd_stream_consumer(stream, name, error) : NULL;
    if (rc == PD_OK && consumer == NULL)
        rc = PD_NO_CONSUMER;
    if (consumer != NULL)
        rc = remove_locked(stream, consumer, &finished, error);
    pd_stream_unlock(stream);
    pd_finished_tell(&finished);
    return rc;
}

int pd_stream_consumer_info(struct pd_stream *stream, const char *name, pd_consumer_info *info, pd_error *error)
{
    pthread_mutex_lock(&stream->lock);
    int rc = pd_stream_check_open(stream, error);
    struct pd_consumer *consumer = rc == PD_OK ? pd_stream_consumer(stream, name, error) : NULL;
    if (rc == PD_OK && consumer == NULL)
        rc = PD_NO_CONSUMER;
    if (consumer != NULL)
        pd_consumer_info_fill(consumer, info);
    pd_stream_unlock(stream);
    return rc;
}
