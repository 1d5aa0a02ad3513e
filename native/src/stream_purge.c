/* Purging: removing records on request, for good.
 *
 * A purge of everything up to a sequence drops whole segments first, which needs no journal and so also works on a
 * disk that is full, and erases the rest as one range. A purge by subject walks over the log, a number of batches at
 * a time with the lock given up between: others append and fetch meanwhile. It goes no further than what was
 * visible when it began. What is in the journal and the directory is synced, without the lock, before it returns.
 */
#include "engine.h"
#include "erasure.h"
#include "stream_internal.h"
#include "subject.h"

#include <stdio.h>
#include <unistd.h>

/* How many batches are looked at before others have their turn. */
#define SLICE 256

/* An active segment of which nothing is kept and that is larger than this is given up at once. */
#define SEAL_SIZE ((uint64_t)64 << 10)

struct purge {
    struct pd_span pattern;
    uint64_t at;
    uint64_t end;  /* the last sequence that it may remove */
    uint64_t left; /* how many it may still remove; 0 while counting */
    bool counting;
    uint64_t found; /* records that match */
    uint64_t removed;
};

/* Those of the reader's batch, from purge->at on. */
static int purge_batch(struct pd_stream *stream, struct purge *purge, struct pd_reader *reader, pd_error *error)
{
    struct pd_log *log = &stream->log;
    struct pd_selection *selection = &stream->selection;
    uint64_t end = pd_min64(purge->end, reader->header.base_sequence + reader->header.record_count - 1);
    int matching = pd_selection_match(selection, reader, purge->pattern);
    if (matching < 0)
        return pd_fail(error, PD_LIMIT_REACHED, "no memory to purge stream %s", stream->name);
    if (matching == 0)
        purge->at = end + 1;
    for (; purge->at <= end && (purge->counting || purge->left > 0); purge->at = pd_log_next(log, purge->at + 1)) {
        int rc = pd_reader_seek(reader, log, purge->at, error);
        if (rc != PD_OK)
            return rc;
        if (!selection->matches[reader->record.subject])
            continue;
        purge->found++;
        if (purge->counting)
            continue;
        rc = pd_stream_erase_one(stream, purge->at, selection->table[reader->record.subject], error);
        if (rc != PD_OK)
            return rc;
        purge->left--;
        purge->removed++;
    }
    return PD_OK;
}

/* The next batches; *more: there are others behind them. */
static int purge_slice(struct pd_stream *stream, struct purge *purge, bool *more, pd_error *error)
{
    struct pd_reader reader = {0};
    int rc = pd_stream_check_open(stream, error);
    pd_selection_begin(&stream->selection, 1, 0);
    *more = false;
    for (int batches = 0; rc == PD_OK; batches++) {
        purge->at = pd_log_next(&stream->log, purge->at);
        *more = purge->at <= purge->end && (purge->counting || purge->left > 0);
        if (!*more || batches == SLICE)
            break;
        rc = pd_reader_seek_batch(&reader, &stream->log, purge->at, error);
        if (rc == PD_OK)
            rc = purge_batch(stream, purge, &reader, error);
    }
    int written = pd_log_erase_commit(&stream->log, rc == PD_OK ? error : NULL);
    return rc == PD_OK ? written : rc;
}

static int purge_walk(struct pd_stream *stream, struct purge *purge, pd_error *error)
{
    bool more = true;
    int rc = PD_OK;
    purge->at = 1;
    while (rc == PD_OK && more) {
        pthread_mutex_lock(&stream->lock);
        rc = purge_slice(stream, purge, &more, error);
        pd_stream_unlock(stream);
    }
    return rc;
}

/* Everything up to `to`. */
static int purge_prefix(struct pd_stream *stream, uint64_t to, uint64_t *removed, struct pd_segment **dropped,
                        pd_error *error)
{
    struct pd_log *log = &stream->log;
    uint64_t before = log->kept;
    uint64_t erased;
    int rc = PD_OK;
    while (rc == PD_OK && log->count > 1 && log->segments[0]->last <= pd_min64(to, log->durable_sequence) &&
           log->segments[0]->synced == log->segments[0]->size) {
        for (size_t i = 0; i < stream->consumer_count; i++)
            pd_consumer_skip_to(stream->consumers[i], log, log->segments[1]->base, &stream->selection);
        rc = pd_log_drop(log, 0, dropped, error);
    }
    if (rc == PD_OK)
        rc = pd_stream_erase(stream, 1, to, &erased, error);
    *removed = before - log->kept;
    const struct pd_segment *active = log->segments[log->count - 1];
    if (rc == PD_OK && log->kept == 0 && active->size > SEAL_SIZE && active->synced == active->size)
        rc = pd_log_seal(log, error);
    int written = pd_log_erase_commit(log, rc == PD_OK ? error : NULL);
    return rc == PD_OK ? written : rc;
}

static int purge_everything(struct pd_stream *stream, struct purge *purge, uint64_t keep, struct pd_segment **dropped,
                            pd_error *error)
{
    struct pd_log *log = &stream->log;
    pthread_mutex_lock(&stream->lock);
    int rc = pd_stream_dedup_require(stream, error); /* what is purged was stored all the same */
    if (rc == PD_OK) {
        uint64_t there = pd_log_count(log, 1, purge->end);
        uint64_t to = keep == 0 || there <= keep ? purge->end : pd_log_nth(log, there - keep) - 1;
        if (there > keep)
            rc = purge_prefix(stream, to, &purge->removed, dropped, error);
    }
    pd_stream_unlock(stream);
    return rc;
}

/* Those on some subjects. */
static int purge_matching(struct pd_stream *stream, struct purge *purge, uint64_t keep, pd_error *error)
{
    int rc = PD_OK;
    purge->left = UINT64_MAX;
    if (keep > 0) {
        purge->counting = true;
        rc = purge_walk(stream, purge, error);
        purge->counting = false;
        purge->left = purge->found > keep ? purge->found - keep : 0;
    }
    return rc == PD_OK && purge->left > 0 ? purge_walk(stream, purge, error) : rc;
}

/* On the disk: what the journal says, and which files are gone. */
static int purge_sync(struct pd_stream *stream, pd_error *error)
{
    char path[PD_PATH_MAX];
    struct pd_finished finished;
    pd_finished_init(&finished);
    snprintf(path, sizeof path, "%s/log", stream->path);
    pthread_mutex_lock(&stream->lock);
    int rc = pd_stream_check_open(stream, error);
    int fd = rc == PD_OK ? pd_log_erase_descriptor(&stream->log) : -1;
    if (rc == PD_OK)
        pd_stream_serve(stream, &finished); /* what was out gave its place up */
    pd_stream_unlock(stream);
    pd_finished_tell(&finished);
    pd_timer_schedule(&stream->engine->timer, stream, 0); /* segments may have become empty */
    if (rc == PD_OK && (fd == -2 || (fd >= 0 && fdatasync(fd) != 0)))
        rc = pd_fail_errno(error, "cannot sync what is erased of", path);
    if (fd >= 0)
        close(fd);
    return rc == PD_OK ? pd_sync_directory(path, error) : rc;
}

int pd_stream_purge_records(struct pd_stream *stream, const char *pattern, uint64_t before, uint64_t keep,
                            uint64_t *removed, pd_error *error)
{
    struct pd_segment *dropped = NULL;
    struct purge purge = {.pattern = {(const uint8_t *)pattern, (uint32_t)strlen(pattern)}};
    const char *wrong = pd_subject_error(pattern, strlen(pattern), true);
    *removed = 0;
    if (wrong != NULL)
        return pd_fail(error, PD_INVALID, "the pattern '%.255s' %s", pattern, wrong);
    pthread_mutex_lock(&stream->lock);
    int rc = pd_stream_check_open(stream, error);
    purge.end = before == 0 ? stream->visible_sequence : pd_min64(before - 1, stream->visible_sequence);
    pd_stream_unlock(stream);
    if (rc == PD_OK)
        rc = strcmp(pattern, ">") == 0 ? purge_everything(stream, &purge, keep, &dropped, error)
                                       : purge_matching(stream, &purge, keep, error);
    if (rc == PD_OK)
        rc = purge_sync(stream, error);
    pd_stream_free_dropped(stream, dropped);
    *removed = purge.removed;
    return rc;
}
