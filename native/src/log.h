/* A stream's log: segments, oldest first, the last one written to. Not thread-safe: the stream's lock guards
 * it; only pd_log_sync_run may run without. */
#ifndef PD_LOG_H
#define PD_LOG_H

#include "base.h"
#include "batch.h"
#include "journal.h"
#include "segment.h"

struct pd_log_options {
    uint64_t segment_size;
    uint64_t max_batch;
    uint64_t max_age_ns;        /* 0: no limit */
    uint64_t max_bytes;         /* 0: no limit */
    struct pd_frame_pool *pool; /* NULL: segments that are compressed cannot be read */
};

struct pd_log {
    char *directory;
    struct pd_log_options options;
    struct pd_segment **segments;
    size_t count;
    size_t capacity;
    uint64_t last_sequence;
    uint64_t durable_sequence; /* up to here fdatasync has been answered */
    uint64_t newest_time_ns;
    uint64_t bytes;              /* on the disk */
    uint64_t first;              /* of what is kept; last_sequence + 1: nothing is */
    uint64_t kept;               /* records */
    uint64_t erased;             /* records that are still in files */
    bool gaps;                   /* there are sequences between segments whose files are gone */
    bool hollow;                 /* there may be a sealed segment of which nothing is kept */
    bool stale;                  /* `erasures` lacks something */
    struct pd_run erasing;       /* of the change under way */
    struct pd_journal *erasures; /* NULL: nothing was ever erased */
    uint64_t cut_bytes;          /* torn tail that opening removed */
    struct pd_frames frames;     /* of compressed segments, that are decompressed */
    uint32_t epoch;
    bool grown;  /* a segment was made, and the directory not synced since */
    bool sealed; /* since somebody last looked for what can be compressed */
    bool failed; /* a sync failed, or an append could not be undone: nothing more is taken */
};

/* A sync under way: the segments that have something new, and up to where. */
#define PD_SYNC_SEGMENTS 64
struct pd_log_sync {
    struct pd_segment *segments[PD_SYNC_SEGMENTS];
    uint64_t sizes[PD_SYNC_SEGMENTS];
    size_t count;
    uint64_t sequence;
    char new_in[PD_PATH_MAX]; /* the directory when a segment was made in it since the last sync, else "" */
};

/* Open the log in a directory that exists, recovering it (recover.c). PD_CORRUPTED when what had been durable
 * is damaged. */
int pd_log_open(struct pd_log *log, const char *directory, const struct pd_log_options *options, pd_error *error);

/* Sync, cut what was only allocated, and close. */
void pd_log_close(struct pd_log *log);

/* Change the limits. */
void pd_log_configure(struct pd_log *log, uint64_t max_age_ns, uint64_t max_bytes);

/* Stamp the header and append; body is what follows its 64 bytes. *header has the stamp afterwards. */
int pd_log_append(struct pd_log *log, struct pd_batch_header *header, const uint8_t *body, uint64_t now_ns,
                  pd_error *error);

/* Group commit: begin (locked), run (unlocked), end (locked, with what run returned). */
void pd_log_sync_begin(struct pd_log *log, struct pd_log_sync *sync);
int pd_log_sync_run(const struct pd_log_sync *sync, pd_error *error);
void pd_log_sync_end(struct pd_log *log, struct pd_log_sync *sync, int rc);

/* First sequence that is kept; last_sequence + 1 when there is none. */
uint64_t pd_log_first_sequence(const struct pd_log *log);

/* Whether retention wants the oldest segment gone; when it will by age (UINT64_MAX: never) as things stand. */
bool pd_log_oldest_expired(struct pd_log *log, uint64_t now_ns);
uint64_t pd_log_oldest_expires_ns(struct pd_log *log);

/* Remove the segment at place `at`, which is not the last one, and its file's name. What is left of it goes to the
 * front of *dropped: to be freed with pd_segment_unref without the lock, since the system takes its time over
 * a large file. The directory is not synced. */
int pd_log_drop(struct pd_log *log, size_t at, struct pd_segment **dropped, pd_error *error);

/* Remove all files of a log that is closed. */
int pd_log_delete(const char *directory, pd_error *error);

/* Begin a new segment, so that the one that was written to can be dropped. */
int pd_log_seal(struct pd_log *log, pd_error *error);

/* The segment that has the sequence in its file, or NULL. */
struct pd_segment *pd_log_segment(const struct pd_log *log, uint64_t sequence);

/* Remove a file of the log; that it is not there is fine. */
int pd_log_unlink(const struct pd_log *log, uint64_t base, const char *suffix, pd_error *error);

/* For recover.c. */
int pd_log_recover(struct pd_log *log, pd_error *error);
bool pd_log_push(struct pd_log *log, struct pd_segment *segment);
uint64_t pd_log_segment_limit(const struct pd_log_options *options);

#endif
