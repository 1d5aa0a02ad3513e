/* Telling one in process that readers see more of a stream, without asking for it again and again. */
#include "completion.h"
#include "engine.h"
#include "stream_internal.h"

void pd_stream_tell_awaited(struct pd_stream *stream, int status)
{
    if (!stream->awaited || (status == PD_OK && stream->visible_sequence <= stream->await_after))
        return;
    const struct pd_finished_token finished = {
        .completion =
            {
                .token = stream->await_token,
                .first_sequence = stream->visible_sequence,
                .status = (uint32_t)status,
            },
    };
    stream->awaited = false;
    pd_completions_put(&stream->engine->completions, &finished);
}

static int await_locked(struct pd_stream *stream, uint64_t after, uint64_t token, pd_error *error)
{
    int rc = pd_stream_check_open(stream, error);
    if (rc != PD_OK)
        return rc;
    if (stream->awaited)
        return pd_fail(error, PD_EXISTS, "stream %s is awaited already", stream->name);
    stream->awaited = true;
    stream->await_after = after;
    stream->await_token = token;
    pd_stream_tell_awaited(stream, PD_OK);
    return PD_OK;
}

int pd_stream_await(pd_engine *engine, const char *name, uint64_t after, uint64_t token, pd_error *error)
{
    struct pd_stream *stream = pd_engine_stream(engine, name, error);
    if (stream == NULL)
        return PD_NO_STREAM;
    int rc = PD_OK;
    if (pd_completions_reserve(&engine->completions)) {
        pthread_mutex_lock(&stream->lock);
        rc = await_locked(stream, after, token, error);
        pthread_mutex_unlock(&stream->lock);
        if (rc != PD_OK)
            pd_completions_unreserve(&engine->completions);
    } else {
        rc = pd_fail(error, PD_LIMIT_REACHED, "%u completions were not taken yet, which is the limit", PD_TOKENS_MAX);
    }
    pd_stream_unref(stream);
    return rc;
}
