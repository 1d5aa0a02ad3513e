/* The thread that compresses sealed segments: one for the engine, at a low priority. */
#ifndef PD_PACKER_H
#define PD_PACKER_H

#include <pthread.h>
#include <stdatomic.h>

#include "base.h"

struct pd_stream;
struct pd_zstd;

struct pd_packer {
    const struct pd_zstd *zstd;
    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows; a leaf */
    pthread_cond_t wake;  /* there is work, or the end */
    pthread_cond_t idle;  /* `current` changed */
    struct pd_stream *list;
    struct pd_stream **list_end;
    struct pd_stream *current;
    atomic_bool cancel; /* the segment under way is given up */
    bool stopping;
    bool running; /* the thread is made with the first work */
};

void pd_packer_init(struct pd_packer *packer, const struct pd_zstd *zstd);
void pd_packer_stop(struct pd_packer *packer);
void pd_packer_fini(struct pd_packer *packer);

/* There may be something to compress of the stream; any lock may be held. */
void pd_packer_mark(struct pd_packer *packer, struct pd_stream *stream);

/* The stream was closed: when it returns, nothing of it is touched any more. No stream's lock may be held. */
void pd_packer_forget(struct pd_packer *packer, struct pd_stream *stream);

#endif
