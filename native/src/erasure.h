/* Records that are removed from the middle of a log, and what is left. Not thread-safe: the stream's lock guards
 * it. The file's layout is at the head of erasure.c. */
#ifndef PD_ERASURE_H
#define PD_ERASURE_H

#include "log.h"

/* Erase the records from `from` to `to` that are in the log and not erased yet; how many they were goes to *erased
 * (which may be NULL). PD_LIMIT_REACHED: there is no memory, and nothing was done. It is in the file after
 * pd_log_erase_commit; when that fails it is gone from what can be read, and comes back with the next opening
 * unless a later commit succeeds. */
int pd_log_erase(struct pd_log *log, uint64_t from, uint64_t to, uint64_t *erased, pd_error *error);
int pd_log_erase_commit(struct pd_log *log, pd_error *error);

/* A descriptor to be synced (and closed) without the lock, for erasures that must survive the machine; -1: there is
 * nothing to sync, -2: there is no descriptor to be had. */
int pd_log_erase_descriptor(const struct pd_log *log);

/* The first record at `sequence` or behind it that is kept; last_sequence + 1 when there is none. */
uint64_t pd_log_next_kept(const struct pd_log *log, uint64_t sequence);

static inline uint64_t pd_log_next(const struct pd_log *log, uint64_t sequence)
{
    return log->erased == 0 && !log->gaps && sequence >= log->first ? sequence : pd_log_next_kept(log, sequence);
}

/* The last record at `sequence` or before it that is kept; 0 when there is none. */
uint64_t pd_log_previous(const struct pd_log *log, uint64_t sequence);

static inline bool pd_log_keeps(const struct pd_log *log, uint64_t sequence)
{
    return sequence <= log->last_sequence && pd_log_next(log, sequence) == sequence;
}

/* How many records from `from` to `to` are kept. */
uint64_t pd_log_count(const struct pd_log *log, uint64_t from, uint64_t to);

/* The kept record with `skip` kept ones before it, from the first on; skip is less than log->kept. */
uint64_t pd_log_nth(const struct pd_log *log, uint64_t skip);

/* Bytes on the disk of what is kept: where something was erased, the share of its segment that its records are. */
uint64_t pd_log_kept_bytes(const struct pd_log *log);

/* The same as they were before they were compressed. */
uint64_t pd_log_kept_size(const struct pd_log *log);

/* Remove the files of sealed segments of which nothing is kept and everything is durable, as pd_log_drop_oldest.
 * False when one could not be removed yet. */
bool pd_log_drop_erased(struct pd_log *log, struct pd_segment **dropped);

/* For recover.c: what the file says of a log that is opened. */
struct pd_interval {
    uint64_t from;
    uint64_t to;
};

struct pd_erasures {
    struct pd_interval *erased; /* as they were written */
    size_t erased_count;
    size_t erased_capacity;
    struct pd_interval *gone; /* whose files are gone, ascending */
    size_t gone_count;
    size_t gone_capacity;
    uint64_t from;           /* of the interval whose end comes next; 0: none */
    uint64_t newest_time_ns; /* when the newest record was appended whose file is gone */
    bool no_memory;
};

int pd_erasures_load(struct pd_log *log, struct pd_erasures *erasures, pd_error *error);
void pd_erasures_fini(struct pd_erasures *erasures);

/* The last sequence of the segment at `base` when the next one begins at `next`: what is between was removed. */
uint64_t pd_erasures_last(const struct pd_erasures *erasures, uint64_t base, uint64_t next);

/* Whether the segment at `base` was removed: its file is to go. */
bool pd_erasures_gone(const struct pd_erasures *erasures, uint64_t base);

/* Erase in the log what the file says, count what is kept, and forget what is beyond its end. */
int pd_erasures_apply(struct pd_log *log, const struct pd_erasures *erasures, pd_error *error);

#endif
