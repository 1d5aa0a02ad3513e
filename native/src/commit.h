/* The commit thread: group commit of all streams that have something new. */
#ifndef PD_COMMIT_H
#define PD_COMMIT_H

#include <pthread.h>
#include <stdbool.h>

struct pd_stream;

struct pd_commit {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct pd_stream *dirty; /* with a reference each */
    bool stopping;
    bool running;
};

int pd_commit_start(struct pd_commit *commit);

/* Sync what is on the list, then end the thread; fini gives up what was marked after that. */
void pd_commit_stop(struct pd_commit *commit);
void pd_commit_fini(struct pd_commit *commit);

/* The stream has something to sync. May be called with the stream's lock held. */
void pd_commit_mark(struct pd_commit *commit, struct pd_stream *stream);

#endif
