/* The commit thread.
 *
 * While it syncs, appends go on and mark their streams again; the next round takes all that came meanwhile
 * with one fdatasync a stream. So the cost of durability is shared by whoever is there at the same time, and
 * nobody waits for a timer: an append on an idle stream is synced at once.
 */
#include "commit.h"

#include "stream.h"

static void *run(void *context)
{
    struct pd_commit *commit = context;
    pthread_setname_np(pthread_self(), "pd-commit");
    pthread_mutex_lock(&commit->lock);
    for (;;) {
        while (commit->dirty == NULL && !commit->stopping)
            pthread_cond_wait(&commit->wake, &commit->lock);
        struct pd_stream *list = commit->dirty;
        commit->dirty = NULL;
        if (list == NULL)
            break;
        while (list != NULL) { /* a stream stays dirty, and its dirty_next ours, until its turn */
            struct pd_stream *stream = list;
            list = stream->dirty_next;
            stream->dirty = false;
            pthread_mutex_unlock(&commit->lock);
            pd_stream_commit(stream);
            pd_stream_unref(stream);
            pthread_mutex_lock(&commit->lock);
        }
    }
    pthread_mutex_unlock(&commit->lock);
    return NULL;
}

int pd_commit_start(struct pd_commit *commit)
{
    pthread_mutex_init(&commit->lock, NULL);
    pthread_cond_init(&commit->wake, NULL);
    commit->running = pthread_create(&commit->thread, NULL, run, commit) == 0;
    return commit->running ? 0 : -1;
}

void pd_commit_stop(struct pd_commit *commit)
{
    if (!commit->running)
        return;
    pthread_mutex_lock(&commit->lock);
    commit->stopping = true;
    pthread_cond_signal(&commit->wake);
    pthread_mutex_unlock(&commit->lock);
    pthread_join(commit->thread, NULL);
    commit->running = false;
}

void pd_commit_fini(struct pd_commit *commit)
{
    while (commit->dirty != NULL) {
        struct pd_stream *stream = commit->dirty;
        commit->dirty = stream->dirty_next;
        pd_stream_unref(stream);
    }
    pthread_mutex_destroy(&commit->lock);
    pthread_cond_destroy(&commit->wake);
}

void pd_commit_mark(struct pd_commit *commit, struct pd_stream *stream)
{
    pthread_mutex_lock(&commit->lock);
    if (!stream->dirty) {
        pd_stream_ref(stream);
        stream->dirty = true;
        stream->dirty_next = commit->dirty;
        commit->dirty = stream;
        pthread_cond_signal(&commit->wake);
    }
    pthread_mutex_unlock(&commit->lock);
}
