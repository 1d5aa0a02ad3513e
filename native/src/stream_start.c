/* Where a stream's consumers begin: what a policy means now, and moving one that is there. What has to read much of
 * the log gives the stream's lock up now and then, so that it goes on for the others meanwhile. */
#include "engine.h"
#include "start.h"
#include "stream_internal.h"
#include "subject.h"

static struct pd_span filter_span(const char *filter)
{
    return (struct pd_span){(const uint8_t *)filter, (uint32_t)strlen(filter)};
}

/* Let others have the lock. */
static int pause_locked(struct pd_stream *stream, pd_error *error)
{
    pd_stream_unlock(stream);
    pthread_mutex_lock(&stream->lock);
    return pd_stream_check_open(stream, error);
}

static int last_locked(struct pd_stream *stream, const char *filter, uint64_t *first, pd_error *error)
{
    uint64_t to = stream->visible_sequence;
    uint64_t found = 0;
    int rc = PD_OK;
    *first = to + 1;
    while (rc == PD_OK && found == 0 && to >= pd_log_first_sequence(&stream->log)) {
        rc = pd_start_last_step(&stream->log, filter_span(filter), &stream->selection, &to, &found, error);
        if (rc == PD_OK && found == 0)
            rc = pause_locked(stream, error);
    }
    if (found != 0)
        *first = found;
    return rc;
}

static int newest_locked(struct pd_stream *stream, const char *filter, uint64_t to, struct pd_picks *ahead,
                         pd_error *error)
{
    struct pd_newest newest;
    uint64_t at = 1;
    int rc = pd_newest_init(&newest, error);
    while (rc == PD_OK && at <= to) {
        rc = pd_newest_step(&newest, &stream->log, filter_span(filter), &stream->selection, &at, to, error);
        if (rc == PD_OK && at <= to)
            rc = pause_locked(stream, error);
    }
    if (rc == PD_OK)
        rc = pd_newest_finish(&newest, ahead, error);
    pd_newest_fini(&newest);
    return rc;
}

static int start_locked(struct pd_stream *stream, const char *filter, const pd_start *start, uint64_t *first,
                        pd_error *error)
{
    switch ((enum pd_start_policy)start->policy) {
    case PD_START_ALL:
        *first = 1;
        return PD_OK;
    case PD_START_NEW:
        *first = stream->log.last_sequence + 1;
        return PD_OK;
    case PD_START_LAST:
        return last_locked(stream, filter, first, error);
    case PD_START_LAST_PER_SUBJECT:
        *first = stream->visible_sequence + 1;
        return PD_OK;
    case PD_START_BY_SEQUENCE:
        *first = pd_max64(1, start->sequence);
        return PD_OK;
    case PD_START_BY_TIME:
        return pd_start_at_time(&stream->log, start->time_ns, first, error);
    }
    return pd_fail(error, PD_INVALID, "the deliver policy is %u; 0 to 5 are defined", start->policy);
}

int pd_stream_start(struct pd_stream *stream, const char *filter, const pd_start *start, uint64_t *first,
                    pd_error *error)
{
    const char *wrong = pd_subject_error(filter, strlen(filter), true);
    if (wrong != NULL)
        return pd_fail(error, PD_INVALID, "the filter '%.255s' %s", filter, wrong);
    pthread_mutex_lock(&stream->lock);
    int rc = pd_stream_check_open(stream, error);
    if (rc == PD_OK)
        rc = start_locked(stream, filter, start, first, error);
    pd_stream_unlock(stream);
    return rc;
}

int pd_stream_collect_newest(struct pd_stream *stream, const char *filter, uint64_t to, struct pd_picks *ahead,
                             pd_error *error)
{
    pthread_mutex_lock(&stream->lock);
    int rc = pd_stream_check_open(stream, error);
    if (rc == PD_OK)
        rc = newest_locked(stream, filter, pd_min64(to, stream->visible_sequence), ahead, error);
    pd_stream_unlock(stream);
    return rc;
}

static int seek_locked(struct pd_stream *stream, const char *name, const pd_start *start, uint64_t *first,
                       struct pd_picks *ahead, pd_error *error)
{
    char filter[256];
    struct pd_consumer *consumer = pd_stream_consumer(stream, name, error);
    if (consumer == NULL)
        return PD_NO_CONSUMER;
    memcpy(filter, consumer->filter, sizeof filter);
    int rc = start_locked(stream, filter, start, first, error);
    if (rc == PD_OK && start->policy == PD_START_LAST_PER_SUBJECT)
        rc = newest_locked(stream, filter, *first - 1, ahead, error);
    if (rc != PD_OK)
        return rc;
    consumer = pd_stream_consumer(stream, name, error); /* the lock may have been given up */
    return consumer != NULL ? pd_consumer_seek_to(consumer, &stream->log, *first, ahead, &stream->selection, error)
                            : PD_NO_CONSUMER;
}

int pd_stream_seek(struct pd_stream *stream, const char *name, const pd_start *start, uint64_t *first, pd_error *error)
{
    struct pd_finished finished;
    struct pd_picks ahead = {0};
    pd_finished_init(&finished);
    pthread_mutex_lock(&stream->lock);
    int rc = pd_stream_check_open(stream, error);
    if (rc == PD_OK)
        rc = seek_locked(stream, name, start, first, &ahead, error);
    if (rc == PD_OK) {
        pd_stream_watch(stream);
        pd_stream_begin_sweep(stream); /* what it passed over it is done with */
        pd_stream_serve(stream, &finished);
    }
    pd_stream_unlock(stream);
    pd_picks_fini(&ahead);
    pd_finished_tell(&finished);
    return rc;
}
