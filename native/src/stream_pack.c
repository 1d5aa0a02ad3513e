/* Compressing the sealed segments of a stream: which, and putting the compressed file in the place of the other.
 *
 * The order makes a crash harmless anywhere (recover.c says what opening makes of each state): the file is written and
 * synced under another name, renamed, the directory synced, and only then the original's name removed. The stream's
 * lock is held for the renaming and the exchange, not while anything is written or synced. Between the two the segment
 * has two names (`twin`): whoever drops it meanwhile removes both.
 */
#include "engine.h"
#include "pack.h"
#include "stream_internal.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

/* The oldest segment that can be compressed and is not, or NULL. What is not durable is left to the next round. */
static struct pd_segment *candidate(const struct pd_log *log)
{
    for (size_t i = 0; i + 1 < log->count; i++) {
        struct pd_segment *segment = log->segments[i];
        bool durable = segment->synced == segment->size && segment->last <= log->durable_sequence;
        bool hollow = segment->erased.count > 0 && segment->erased.count == segment->last + 1 - segment->base;
        if (segment->packed == NULL && !segment->useless && segment->size > 0 && durable && !hollow)
            return segment;
    }
    return NULL;
}

void pd_stream_mark_packing(struct pd_stream *stream)
{
    struct pd_log *log = &stream->log;
    if (!log->sealed || stream->closed || stream->config.compression == PD_COMPRESSION_NONE)
        return;
    if (log->count > 1 && log->segments[log->count - 2]->synced != log->segments[log->count - 2]->size)
        return; /* the next commit looks again */
    log->sealed = false;
    if (candidate(log) != NULL)
        pd_packer_mark(&stream->engine->packer, stream);
}

/* Nothing of the log may have been touched since it was closed. */
static bool still_there(const struct pd_stream *stream, const struct pd_segment *segment)
{
    return !stream->closed && pd_log_segment(&stream->log, segment->base) == segment;
}

static enum pd_packing renaming(struct pd_stream *stream, struct pd_segment *segment, const struct pd_pack_job *job,
                                const char *path, pd_error *error)
{
    enum pd_packing outcome = PD_PACK_DONE;
    pthread_mutex_lock(&stream->lock);
    if (!still_there(stream, segment)) {
        outcome = PD_PACK_CANCELLED;
    } else if (rename(job->target, path) != 0) {
        pd_fail_errno(error, "cannot rename", job->target);
        outcome = PD_PACK_FAILED;
    } else {
        segment->twin = true;
    }
    pd_stream_unlock(stream);
    if (outcome != PD_PACK_DONE)
        unlink(job->target);
    return outcome;
}

/* Under the lock; nothing here takes long. */
static enum pd_packing exchange(struct pd_stream *stream, struct pd_segment *segment, const struct pd_pack_job *job,
                                const char *path, void **old_map, pd_error *error)
{
    struct pd_log *log = &stream->log;
    struct pd_packed *packed = NULL;
    if (!still_there(stream, segment))
        return PD_PACK_CANCELLED;
    int rc = pd_packed_open(path, job->base, &log->frames, &packed, error);
    if (rc == PD_OK && unlink(job->source) != 0)
        rc = pd_fail_errno(error, "cannot remove", job->source);
    if (rc != PD_OK) {
        if (packed != NULL)
            pd_packed_free(packed);
        segment->twin = pd_log_unlink(log, job->base, PD_PACKED, NULL) != PD_OK;
        return PD_PACK_FAILED;
    }
    log->bytes -= segment->size;
    pd_segment_replace(segment, packed, old_map);
    log->bytes += pd_segment_stored(segment);
    return PD_PACK_DONE;
}

/* The file is there under its other name. */
static enum pd_packing install(struct pd_stream *stream, struct pd_segment *segment, const struct pd_pack_job *job,
                               pd_error *error)
{
    char path[PD_PATH_MAX];
    char directory[PD_PATH_MAX];
    void *old_map = NULL;
    size_t old_length = 0;
    snprintf(directory, sizeof directory, "%s/log", stream->path);
    pd_segment_path(path, directory, job->base, PD_PACKED);
    enum pd_packing outcome = renaming(stream, segment, job, path, error);
    if (outcome != PD_PACK_DONE)
        return outcome;
    int rc = pd_sync_directory(directory, error);
    pthread_mutex_lock(&stream->lock);
    if (rc == PD_OK) {
        old_length = segment->map_length;
        outcome = exchange(stream, segment, job, path, &old_map, error);
    } else {
        outcome = PD_PACK_FAILED;
        if (still_there(stream, segment))
            segment->twin = pd_log_unlink(&stream->log, job->base, PD_PACKED, NULL) != PD_OK;
    }
    pd_stream_unlock(stream);
    if (old_map != NULL)
        munmap(old_map, old_length);
    if (outcome == PD_PACK_DONE)
        pd_sync_directory(directory, NULL); /* else both are there after a power failure, which is no harm */
    return outcome;
}

/* Under the lock: what came of it. */
static enum pd_pack_next conclude(struct pd_stream *stream, struct pd_segment *segment, enum pd_packing outcome,
                                  const char *why)
{
    bool told = stream->pack_failing;
    stream->pack_failing = outcome == PD_PACK_FAILED || (told && outcome != PD_PACK_DONE);
    if (outcome == PD_PACK_USELESS || outcome == PD_PACK_DAMAGED)
        segment->useless = true;
    if (outcome == PD_PACK_DAMAGED)
        pd_advise(&stream->engine->advisories, PD_ADVISE_COMPRESSION_FAILED, stream->name, "",
                  "a segment stays uncompressed: %.200s", why);
    if (outcome == PD_PACK_FAILED && !told)
        pd_advise(&stream->engine->advisories, PD_ADVISE_COMPRESSION_FAILED, stream->name, "",
                  "goes on uncompressed, and is tried again: %.200s", why);
    if (stream->closed || stream->config.compression == PD_COMPRESSION_NONE)
        return PD_PACK_NOTHING;
    if (outcome == PD_PACK_FAILED)
        return PD_PACK_LATER;
    return candidate(&stream->log) != NULL ? PD_PACK_MORE : PD_PACK_NOTHING;
}

enum pd_pack_next pd_stream_pack(struct pd_stream *stream, struct pd_pack_tools *tools, const atomic_bool *cancel)
{
    struct pd_pack_job job;
    pd_error error = {""};
    pthread_mutex_lock(&stream->lock);
    bool wanted = !stream->closed && stream->config.compression != PD_COMPRESSION_NONE;
    struct pd_segment *segment = wanted ? candidate(&stream->log) : NULL;
    if (segment != NULL) {
        segment->references++;
        job.base = segment->base;
        job.last = segment->last;
        job.size = segment->size;
        pd_segment_path(job.source, stream->log.directory, job.base, PD_PLAIN);
        pd_segment_path(job.target, stream->log.directory, job.base, PD_PACKED PD_NEW);
    }
    pd_stream_unlock(stream);
    if (segment == NULL)
        return PD_PACK_NOTHING;
    enum pd_packing outcome = pd_pack(&job, tools, cancel, &error);
    if (outcome == PD_PACK_DONE)
        outcome = install(stream, segment, &job, &error);
    pthread_mutex_lock(&stream->lock);
    enum pd_pack_next next = conclude(stream, segment, outcome, error.text);
    if (outcome == PD_PACK_DONE)
        pd_timer_schedule(&stream->engine->timer, stream, 0); /* retention by bytes has other numbers now */
    pd_segment_unref(segment);
    pd_stream_unlock(stream);
    return next;
}
