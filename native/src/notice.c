/* What push and live did, in numbers, and telling one who listens that something went wrong. */
#include "notice.h"

#include "engine.h"

#include <stdio.h>

void pd_notice_init(struct pd_notice *notice, pd_engine *engine)
{
    notice->engine = engine;
    pthread_mutex_init(&notice->lock, NULL);
}

void pd_notice_fini(struct pd_notice *notice)
{
    pthread_mutex_destroy(&notice->lock);
}

/* Complete the watch, if there is one; the lock is held. */
static void tell_locked(struct pd_notice *notice)
{
    struct pd_finished_token finished = {.completion = {.token = notice->token}};
    notice->news = !notice->watching;
    if (notice->watching)
        pd_completions_put(&notice->engine->completions, &finished);
    notice->watching = false;
}

void pd_notice_refuse(struct pd_notice *notice, int status, uint64_t records, const char *why)
{
    switch (status) {
    case PD_INVALID:
    case PD_BAD_CHECKSUM:
    case PD_BAD_VERSION:
    case PD_SPANS_STREAMS:
        pd_count(&notice->push_invalid, records);
        break;
    case PD_NOT_CAPTURED:
        pd_count(&notice->push_not_captured, records);
        break;
    case PD_TOO_LARGE:
        pd_count(&notice->push_too_large, records);
        break;
    case PD_STORAGE_FULL:
    case PD_STREAM_FULL:
        pd_count(&notice->push_full, records);
        break;
    default:
        pd_count(&notice->push_failed, records);
    }
    pthread_mutex_lock(&notice->lock);
    snprintf(notice->refusal, sizeof notice->refusal, "%s", why);
    tell_locked(notice);
    pthread_mutex_unlock(&notice->lock);
}

void pd_notice_tell(struct pd_notice *notice)
{
    pthread_mutex_lock(&notice->lock);
    tell_locked(notice);
    pthread_mutex_unlock(&notice->lock);
}

int pd_notice_watch(struct pd_notice *notice, uint64_t token, pd_error *error)
{
    int rc = PD_OK;
    if (!pd_completions_reserve(&notice->engine->completions))
        return pd_fail(error, PD_LIMIT_REACHED, "%u completions were not taken yet, which is the limit", PD_TOKENS_MAX);
    pthread_mutex_lock(&notice->lock);
    if (notice->watching) {
        rc = pd_fail(error, PD_EXISTS, "the sockets are watched already");
    } else {
        notice->watching = true;
        notice->token = token;
        if (notice->news)
            tell_locked(notice);
    }
    pthread_mutex_unlock(&notice->lock);
    if (rc != PD_OK)
        pd_completions_unreserve(&notice->engine->completions);
    return rc;
}

void pd_notice_read(struct pd_notice *notice, pd_socket_statistics *out)
{
    *out = (pd_socket_statistics){
        .push_messages = atomic_load(&notice->push_messages),
        .push_records = atomic_load(&notice->push_records),
        .push_invalid = atomic_load(&notice->push_invalid),
        .push_not_captured = atomic_load(&notice->push_not_captured),
        .push_too_large = atomic_load(&notice->push_too_large),
        .push_full = atomic_load(&notice->push_full),
        .push_failed = atomic_load(&notice->push_failed),
        .live_refused = atomic_load(&notice->live_refused),
        .live_timeouts = atomic_load(&notice->live_timeouts),
        .live_records = atomic_load(&notice->live_records),
        .live_sent = atomic_load(&notice->live_sent),
        .live_dropped = atomic_load(&notice->live_dropped),
        .live_disconnected = atomic_load(&notice->live_disconnected),
    };
    pthread_mutex_lock(&notice->lock);
    memcpy(out->push_refusal, notice->refusal, sizeof out->push_refusal);
    pthread_mutex_unlock(&notice->lock);
}
