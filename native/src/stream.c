/* A stream: its life, its limits, the commit thread's and the timer's part of it. Appending is in
 * stream_append.c, fetching in stream_fetch.c, consumers in stream_consumers.c, reading back what was stored
 * lately in stream_load.c.
 *
 * What readers see ends at visible_sequence. Appends that wait for the disk stand in `pending`, in the order
 * of the log; the first of them hides its records and all behind it. An append that asked for less than the
 * disk is answered at once, but becomes visible no earlier than what stands before it.
 */
#include "stream.h"

#include "engine.h"
#include "erasure.h"
#include "live.h"
#include "stream_internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define RETRY_NS 1000000000u /* when retention could not remove a file */

void pd_finished_init(struct pd_finished *finished)
{
    *finished = (struct pd_finished){0};
    finished->appends_end = &finished->appends;
    finished->fetches_end = &finished->fetches;
}

void pd_finished_append(struct pd_finished *finished, struct pd_pending *pending)
{
    pending->next = NULL;
    *finished->appends_end = pending;
    finished->appends_end = &pending->next;
}

void pd_finished_fetch(struct pd_finished *finished, struct pd_fetch *fetch)
{
    fetch->next = NULL;
    *finished->fetches_end = fetch;
    finished->fetches_end = &fetch->next;
}

void pd_finished_tell(struct pd_finished *finished)
{
    while (finished->appends != NULL) {
        struct pd_pending *pending = finished->appends;
        finished->appends = pending->next;
        pending->finish(pending);
    }
    while (finished->fetches != NULL) {
        struct pd_fetch *fetch = finished->fetches;
        finished->fetches = fetch->next;
        fetch->finish(fetch);
    }
}

static int open_log(struct pd_stream *stream, pd_error *error)
{
    char path[PD_PATH_MAX];
    const pd_options *options = &stream->engine->options;
    struct pd_log_options log = {options->segment_size, options->max_batch, stream->config.max_age_ns,
                                 pd_stream_dropping_bytes(&stream->config), stream->engine->pool};
    if (stream->config.compression != PD_COMPRESSION_NONE && log.pool == NULL)
        return pd_fail(error, PD_INVALID, "stream %s is to be compressed, and zstd is not here", stream->name);
    int rc = pd_make_directory(stream->path, error);
    snprintf(path, sizeof path, "%s/consumers", stream->path);
    if (rc == PD_OK)
        rc = pd_make_directory(path, error);
    snprintf(path, sizeof path, "%s/log", stream->path);
    if (rc == PD_OK)
        rc = pd_make_directory(path, error);
    if (rc == PD_OK)
        rc = pd_sync_directory(stream->path, error);
    if (rc == PD_OK)
        rc = pd_sync_directory(stream->engine->directory, error);
    return rc == PD_OK ? pd_log_open(&stream->log, path, &log, error) : rc;
}

int pd_stream_alloc(pd_engine *engine, const char *name, const pd_stream_config *config, struct pd_stream **made,
                    pd_error *error)
{
    char path[PD_PATH_MAX];
    struct pd_stream *stream = calloc(1, sizeof *stream);
    int length = snprintf(path, sizeof path, "%s/%s", engine->directory, name);
    if (stream == NULL || (stream->path = strdup(path)) == NULL) {
        free(stream);
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for stream %s", name);
    }
    stream->engine = engine;
    stream->config = *config;
    stream->timer_at = UINT64_MAX;
    stream->pending_end = &stream->pending;
    atomic_init(&stream->references, 1);
    snprintf(stream->name, sizeof stream->name, "%s", name);
    pthread_mutex_init(&stream->lock, NULL);
    pd_dedup_init(&stream->dedup, config->duplicate_window_ns, config->duplicate_limit);
    int rc = length + 64 < PD_PATH_MAX ? open_log(stream, error)
                                       : pd_fail(error, PD_INVALID, "the path of stream %s is too long", name);
    if (rc == PD_OK) {
        stream->visible_sequence = stream->log.last_sequence;
        rc = pd_stream_dedup_open(stream, error);
        pd_stream_index_reset(stream);
        pd_stream_index_open(stream);
        pd_stream_trim(stream);
        pd_frames_rest(&stream->log.frames);
        pd_stream_mark_packing(stream);
    }
    if (rc != PD_OK) {
        pd_stream_close(stream, rc);
        pd_stream_unref(stream);
        return rc;
    }
    *made = stream;
    return PD_OK;
}

void pd_stream_ref(struct pd_stream *stream)
{
    atomic_fetch_add(&stream->references, 1);
}

void pd_stream_unref(struct pd_stream *stream)
{
    if (atomic_fetch_sub(&stream->references, 1) > 1)
        return;
    for (uint32_t i = 0; i < stream->subject_count; i++)
        free(stream->subjects[i]);
    free(stream->subjects);
    pd_selection_fini(&stream->selection);
    pd_dedup_fini(&stream->dedup);
    pd_stream_dedup_fini(stream);
    pd_subject_index_fini(&stream->index);
    free(stream->consumers);
    free(stream->table);
    free(stream->counts);
    free(stream->rebuilt);
    free(stream->path);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}

static void fail_pending(struct pd_stream *stream, int status, const char *why, struct pd_finished *finished)
{
    while (stream->pending != NULL) {
        struct pd_pending *pending = stream->pending;
        stream->pending = pending->next;
        pending->status = pd_fail(&pending->error, status, "%s", why);
        pd_finished_append(finished, pending);
    }
    stream->pending_end = &stream->pending;
}

void pd_stream_close(struct pd_stream *stream, int status)
{
    struct pd_finished finished;
    pd_finished_init(&finished);
    pthread_mutex_lock(&stream->lock);
    if (!stream->closed) {
        stream->closed = true;
        fail_pending(stream, status, "the stream was closed before this was durable", &finished);
        pd_stream_tell_awaited(stream, status);
        for (size_t i = 0; i < stream->consumer_count; i++) {
            pd_stream_expel(stream->consumers[i], pd_fetch_any, 0, status, &finished);
            pd_consumer_fini(stream->consumers[i]);
            free(stream->consumers[i]);
            atomic_fetch_sub(&stream->engine->consumers, 1);
        }
        stream->consumer_count = 0;
        pd_log_close(&stream->log);
    }
    pd_stream_unlock(stream);
    pd_packer_forget(&stream->engine->packer, stream);
    pd_finished_tell(&finished);
}

/* Also those of consumers that were not opened. */
static int remove_journals(const char *directory, pd_error *error)
{
    DIR *opened = opendir(directory);
    int rc = PD_OK;
    if (opened == NULL)
        return errno == ENOENT ? PD_OK : pd_fail_errno(error, "cannot open the directory", directory);
    for (struct dirent *entry; rc == PD_OK && (entry = readdir(opened)) != NULL;) {
        const char *dot = strrchr(entry->d_name, '.');
        bool journal = dot != NULL && (strcmp(dot, ".state") == 0 || strcmp(dot, ".new") == 0);
        if (journal && unlinkat(dirfd(opened), entry->d_name, 0) != 0 && errno != ENOENT)
            rc = pd_fail_errno(error, "cannot remove what is in", directory);
    }
    closedir(opened);
    return rc;
}

int pd_stream_remove(struct pd_stream *stream, pd_error *error)
{
    char path[PD_PATH_MAX];
    pd_stream_close(stream, PD_NO_STREAM);
    snprintf(path, sizeof path, "%s/consumers", stream->path);
    int rc = remove_journals(path, error);
    snprintf(path, sizeof path, "%s/log", stream->path);
    return rc == PD_OK ? pd_log_delete(path, error) : rc;
}

void pd_stream_configure(struct pd_stream *stream, const pd_stream_config *config)
{
    pthread_mutex_lock(&stream->lock);
    bool subjects = stream->config.max_records_per_subject != config->max_records_per_subject ||
                    (stream->config.discard_new != 0 && config->discard_new == 0);
    stream->config = *config;
    stream->dedup.window_ns = config->duplicate_window_ns;
    stream->dedup.limit = config->duplicate_limit;
    pd_dedup_trim(&stream->dedup, pd_max64(pd_wall_ns(), stream->log.newest_time_ns));
    pd_log_configure(&stream->log, config->max_age_ns, pd_stream_dropping_bytes(config));
    if (subjects && !stream->closed) {
        pd_stream_index_reset(stream);
        pd_stream_index_open(stream);
    }
    pd_stream_trim(stream);
    pd_stream_watch(stream);
    stream->log.sealed = true;
    pd_stream_mark_packing(stream);
    pd_stream_unlock(stream);
    pd_timer_schedule(&stream->engine->timer, stream, 0);
}

void pd_stream_info_fill(struct pd_stream *stream, pd_stream_info *info)
{
    double rates[2];
    pthread_mutex_lock(&stream->lock);
    *info = (pd_stream_info){0};
    if (!stream->closed) {
        info->first_sequence = pd_log_first_sequence(&stream->log);
        info->last_sequence = stream->log.last_sequence;
        info->messages = stream->log.kept;
        info->bytes = pd_log_kept_bytes(&stream->log);
        info->uncompressed_bytes = pd_log_kept_size(&stream->log);
        info->durable_sequence = stream->visible_sequence;
        info->consumers = stream->consumer_count;
        info->cut_bytes = stream->log.cut_bytes;
        info->first_time_ns = pd_stream_first_time(stream);
        info->last_time_ns = stream->log.newest_time_ns;
        pd_rate_read(&stream->rate, pd_max64(pd_wall_ns(), stream->log.newest_time_ns), rates);
        info->publish_rate = rates[0];
        info->publish_bytes_rate = rates[1];
        info->knows_subjects = stream->index_ready;
    }
    pd_stream_unlock(stream);
}

int pd_stream_check_open(const struct pd_stream *stream, pd_error *error)
{
    if (!stream->closed)
        return PD_OK;
    if (atomic_load(&stream->engine->stopping))
        return pd_fail(error, PD_STOPPING, "the daemon is stopping");
    return pd_fail(error, PD_NO_STREAM, "stream %s was deleted", stream->name);
}

void pd_stream_reveal(struct pd_stream *stream, uint64_t sequence)
{
    struct pd_live *live = atomic_load_explicit(&stream->engine->live, memory_order_acquire);
    if (live != NULL && atomic_load(&live->subscribers) > 0 && sequence > stream->visible_sequence)
        pd_live_mark(live, stream);
    stream->visible_sequence = sequence;
    pd_stream_tell_awaited(stream, PD_OK);
}

/* Answer what is durable now, and let readers see it. */
static void settle(struct pd_stream *stream, struct pd_finished *finished)
{
    while (stream->pending != NULL && stream->pending->wait_sequence <= stream->log.durable_sequence) {
        struct pd_pending *pending = stream->pending;
        stream->pending = pending->next;
        pd_finished_append(finished, pending);
    }
    if (stream->pending == NULL)
        stream->pending_end = &stream->pending;
    uint64_t visible = stream->pending != NULL ? stream->pending->hidden_from - 1 : stream->log.last_sequence;
    pd_stream_reveal(stream, pd_max64(stream->visible_sequence, visible));
}

void pd_stream_commit(struct pd_stream *stream)
{
    struct pd_log_sync sync;
    struct pd_finished finished;
    pd_error error;
    pd_finished_init(&finished);
    pthread_mutex_lock(&stream->lock);
    if (stream->closed || stream->log.failed) {
        fail_pending(stream, PD_IO_ERROR, "the log failed before this was durable", &finished);
        pd_stream_unlock(stream);
        pd_finished_tell(&finished);
        return;
    }
    pd_log_sync_begin(&stream->log, &sync);
    pd_stream_unlock(stream);
    int rc = pd_log_sync_run(&sync, &error);
    pd_count(&stream->engine->counters.syncs, 1);
    pthread_mutex_lock(&stream->lock);
    pd_log_sync_end(&stream->log, &sync, rc);
    if (rc != PD_OK) {
        fail_pending(stream, rc, error.text, &finished);
    } else if (!stream->closed) {
        settle(stream, &finished);
        pd_stream_mark_packing(stream);
        if (stream->pending != NULL)
            pd_commit_mark(&stream->engine->commit, stream);
        pd_stream_serve(stream, &finished);
    }
    pd_stream_unlock(stream);
    pd_finished_tell(&finished);
}

uint64_t pd_stream_retain(struct pd_stream *stream, uint64_t now_mono_ns, struct pd_segment **dropped)
{
    uint64_t now_ns = pd_wall_ns();
    if (stream->unknown_segments > 0 && !stream->unknowable)
        return now_mono_ns; /* a segment is dropped when its ids are known, and they are read right now */
    while (pd_log_oldest_expired(&stream->log, now_ns)) {
        uint64_t first = stream->log.segments[1]->base;
        if (first > stream->visible_sequence + 1)
            return now_mono_ns + RETRY_NS;
        for (size_t i = 0; i < stream->consumer_count; i++)
            pd_consumer_skip_to(stream->consumers[i], &stream->log, first, &stream->selection);
        if (pd_log_drop(&stream->log, 0, dropped, NULL) != PD_OK)
            return now_mono_ns + RETRY_NS;
    }
    if (!pd_log_drop_erased(&stream->log, dropped))
        return now_mono_ns + RETRY_NS;
    uint64_t expires = pd_log_oldest_expires_ns(&stream->log);
    return expires == UINT64_MAX ? UINT64_MAX : pd_add_saturating(now_mono_ns, expires - now_ns + 1000000u);
}

void pd_stream_free_dropped(struct pd_stream *stream, struct pd_segment *dropped)
{
    char path[PD_PATH_MAX];
    if (dropped == NULL)
        return;
    while (dropped != NULL) {
        struct pd_segment *segment = dropped;
        dropped = segment->next;
        pd_segment_unref(segment);
    }
    snprintf(path, sizeof path, "%s/log", stream->path);
    pd_sync_directory(path, NULL); /* else older records may be back after a power failure, which is no harm */
}

uint64_t pd_stream_tick(struct pd_stream *stream)
{
    struct pd_finished finished;
    struct pd_segment *dropped = NULL;
    uint64_t now_ns = pd_mono_ns();
    uint64_t next = UINT64_MAX;
    pd_finished_init(&finished);
    pthread_mutex_lock(&stream->lock);
    if (!stream->closed) {
        next = pd_stream_retain(stream, now_ns, &dropped);
        for (size_t i = 0; i < stream->consumer_count; i++)
            next = pd_min64(next, pd_consumer_tick(stream->consumers[i], now_ns));
        pd_stream_erase_done(stream);
        if (pd_stream_sweep(stream))
            next = now_ns;
        if (pd_stream_index_build(stream) || pd_stream_dedup_build(stream))
            next = now_ns;
        pd_stream_serve(stream, &finished);
        for (size_t i = 0; i < stream->consumer_count; i++) {
            struct pd_consumer *consumer = stream->consumers[i];
            next = pd_min64(next, pd_stream_expel(consumer, pd_fetch_expired, now_ns, PD_OK, &finished));
            next = pd_min64(next, consumer->next_deadline); /* serving made new ones */
            next = pd_min64(next, pd_stream_idle_due(consumer, now_ns));
            pd_stream_tell(stream, consumer);
        }
        pd_stream_remove_idle(stream, now_ns, &finished);
    }
    pd_stream_unlock(stream);
    pd_finished_tell(&finished);
    pd_stream_free_dropped(stream, dropped);
    pd_stream_post(stream);
    return next;
}

void pd_stream_release(struct pd_stream *stream, uint32_t owner)
{
    struct pd_finished finished;
    bool any = false;
    pd_finished_init(&finished);
    pthread_mutex_lock(&stream->lock);
    for (size_t i = 0; !stream->closed && i < stream->consumer_count; i++) {
        pd_stream_expel(stream->consumers[i], pd_fetch_owned, owner, PD_STOPPING, &finished);
        any = pd_consumer_release(stream->consumers[i], owner) || any;
        pd_stream_tell(stream, stream->consumers[i]);
    }
    if (any) {
        pd_stream_erase_done(stream);
        pd_stream_serve(stream, &finished);
    }
    pd_stream_unlock(stream);
    pd_finished_tell(&finished);
}

bool pd_stream_knows_subjects(struct pd_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    bool knows = stream->index_ready;
    pthread_mutex_unlock(&stream->lock);
    return knows;
}
