/* A stream: its log, its consumers, what it remembers against duplicates, and who waits for it.
 *
 * Every function here takes the stream's lock itself. What is finished meanwhile (appends, fetches) is told
 * after the lock was given up, so a finish function may call back into the engine. */
#ifndef PD_STREAM_H
#define PD_STREAM_H

#include <pthread.h>
#include <stdatomic.h>

#include "base.h"
#include "consumer.h"
#include "dedup.h"
#include "log.h"
#include "pack.h"
#include "rate.h"
#include "reader.h"
#include "selection.h"
#include "subject_index.h"

enum pd_durability {
    PD_DURABLE_MEMORY = 0, /* nothing is promised (but it is with the system all the same) */
    PD_DURABLE_OS = 1,     /* survives the daemon */
    PD_DURABLE_FSYNC = 2   /* survives the machine */
};

/* An append that is to be answered. Embedded in what waits; next is the list's. */
struct pd_pending {
    struct pd_pending *next;
    void (*finish)(struct pd_pending *pending); /* called once, with no lock held */
    uint64_t wait_sequence;                     /* answered when this is durable */
    uint64_t hidden_from;                       /* readers see nothing from here on before that */
    uint64_t first_sequence;
    uint32_t record_count;
    uint32_t appended;
    uint32_t duplicates;
    uint8_t *bitmap; /* of the duplicates; malloc'ed when there are some; the owner frees it */
    int status;
    char stream[PD_NAME_MAX + 1];
    pd_error error;
};

/* What must hold of the last sequences for an append to be made; PD_NO_EXPECTATION: anything. */
struct pd_expectation {
    uint64_t last;            /* of the stream */
    uint64_t last_on_subject; /* of what it keeps on the subject of the batch's first record; 0: nothing */
};

struct pd_batch_view {
    const uint8_t *data; /* its form was checked */
    struct pd_batch_header header;
    bool checked; /* its records fit the stream's format, if that was asked for */
};

/* pd_stream_config.compression */
enum pd_compression { PD_COMPRESSION_NONE, PD_COMPRESSION_ZSTD };

/* pd_stream_config.retention */
enum pd_retention { PD_RETENTION_LIMITS, PD_RETENTION_INTEREST, PD_RETENTION_WORK_QUEUE };

struct pd_stream {
    pd_engine *engine;
    atomic_uint references;
    char name[PD_NAME_MAX + 1];
    char *path;
    char **subjects; /* patterns; guarded by the engine's lock */
    uint32_t subject_count;

    pthread_mutex_t lock; /* guards what follows */
    bool closed;          /* deleted, or the engine was stopped */
    pd_stream_config config;
    struct pd_log log;
    bool full; /* the disk was, at the last append */
    uint64_t full_told_ns;
    struct pd_dedup dedup;
    struct pd_found *found;    /* of the newest of the segments below, while they are read */
    size_t unknown_segments;   /* the oldest ones, whose ids are not in it yet */
    bool unknowable;           /* reading them failed: batches with ids are refused, and nothing waits for it */
    uint64_t visible_sequence; /* readers see up to here */
    struct pd_rate rate;       /* records and bytes that are appended */
    uint64_t first_looked_up;  /* the sequence whose append time first_time_ns is; 0: none yet */
    uint64_t first_time_ns;
    struct pd_consumer **consumers;
    size_t consumer_count;
    size_t consumer_capacity;
    bool consumers_known;       /* all that there are */
    uint64_t sweep_at;          /* where looking for records that have served goes on; 0: nowhere */
    struct pd_pending *pending; /* appends waiting for the disk, in their order */
    struct pd_pending **pending_end;
    struct pd_subject_index index; /* see stream_index.c */
    uint64_t index_at;             /* where building goes on; 0: not begun, and nobody asked */
    bool index_ready;              /* it knows everything up to the log's last record */
    struct pd_selection selection; /* for whoever fetches or counts under the lock */
    struct pd_span *table;         /* subjects of the batch that is appended, and how many records each has */
    uint32_t *counts;
    size_t table_capacity;
    size_t counts_capacity;
    uint8_t *rebuilt; /* a batch without its duplicates */
    size_t rebuilt_capacity;

    bool awaited; /* see pd_stream_await */
    uint64_t await_after;
    uint64_t await_token;
    uint64_t live_sequence; /* up to here live has it */
    unsigned live_epoch;    /* of live, that live_sequence is good for */
    bool live_dirty;        /* in live's list */
    struct pd_reader live_reader;
    struct pd_stream *live_next; /* guarded by live's lock */

    bool pack_failing;           /* the last try to compress failed, and was told */
    struct pd_stream *pack_next; /* guarded by the packer's lock */
    uint64_t pack_at;            /* not before */
    bool pack_listed;

    struct pd_stream *dirty_next; /* guarded by the commit thread's lock */
    bool dirty;
    uint64_t timer_at; /* guarded by the timer's lock */
};

/* Open what is in the directory engine->directory/name; references is 1. */
int pd_stream_alloc(pd_engine *engine, const char *name, const pd_stream_config *config, struct pd_stream **stream,
                    pd_error *error);
void pd_stream_ref(struct pd_stream *stream);
void pd_stream_unref(struct pd_stream *stream);

/* Give up the lock, with which all pointers into the log end. */
static inline void pd_stream_unlock(struct pd_stream *stream)
{
    pd_frames_rest(&stream->log.frames);
    pthread_mutex_unlock(&stream->lock);
}

/* Refuse everything from now on, answer all that waits with status, close the files. */
void pd_stream_close(struct pd_stream *stream, int status);

/* Close it and remove its log and journals. */
int pd_stream_remove(struct pd_stream *stream, pd_error *error);

void pd_stream_configure(struct pd_stream *stream, const pd_stream_config *config);
void pd_stream_info_fill(struct pd_stream *stream, pd_stream_info *info);

/* Append: PD_OK, and pending->finish will be called (or was); else nothing was appended and it will not. */
int pd_stream_append(struct pd_stream *stream, const struct pd_batch_view *batch, enum pd_durability durability,
                     const struct pd_expectation *expect, struct pd_pending *pending, pd_error *error);

/* The commit thread's work: sync what is there, answer, wake. */
void pd_stream_commit(struct pd_stream *stream);

/* The packer's work: compress one segment; what is left to do. */
enum pd_pack_next { PD_PACK_NOTHING, PD_PACK_MORE, PD_PACK_LATER };
enum pd_pack_next pd_stream_pack(struct pd_stream *stream, struct pd_pack_tools *tools, const atomic_bool *cancel);

/* The timer's work: what is due; the next deadline of pd_mono_ns, UINT64_MAX for none. */
uint64_t pd_stream_tick(struct pd_stream *stream);

/* A pipe is gone. */
void pd_stream_release(struct pd_stream *stream, uint32_t owner);

/* Fetch: PD_OK, and fetch->finish will be called (or was); else it will not. */
int pd_stream_fetch(struct pd_stream *stream, const char *consumer, struct pd_fetch *fetch, pd_error *error);
int pd_stream_ack(struct pd_stream *stream, const char *consumer, const struct pd_acks *acks, uint32_t *known,
                  pd_error *error);

int pd_stream_know_consumers(struct pd_stream *stream, pd_error *error);

/* As pd_stream_purge, pd_stream_read and the pd_consumer functions of the boundary. */
int pd_stream_purge_records(struct pd_stream *stream, const char *pattern, uint64_t before, uint64_t keep,
                            uint64_t *removed, pd_error *error);
int pd_stream_look(struct pd_stream *stream, uint64_t after, const char *pattern, uint32_t max_records,
                   uint32_t max_bytes, uint8_t **block, size_t *length, uint32_t *records, pd_error *error);
int pd_stream_consumer_open(struct pd_stream *stream, const char *name, const char *filter,
                            const pd_consumer_config *config, pd_error *error);
int pd_stream_start(struct pd_stream *stream, const char *filter, const pd_start *start, uint64_t *first,
                    pd_error *error);
int pd_stream_seek(struct pd_stream *stream, const char *name, const pd_start *start, uint64_t *first, pd_error *error);
int pd_stream_consumer_delete(struct pd_stream *stream, const char *name, pd_error *error);
int pd_stream_consumer_info(struct pd_stream *stream, const char *name, pd_consumer_info *info, pd_error *error);

/* Whether the newest record of each subject is known: then pd_stream_append does not read the log for an expectation.
 */
bool pd_stream_knows_subjects(struct pd_stream *stream);

#endif
