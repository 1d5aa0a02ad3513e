/* Where a consumer begins: what a deliver policy means in a log. All of it is called with the stream's lock held;
 * what may have to read the whole log goes in steps, between which the lock can be given up. */
#ifndef PD_START_H
#define PD_START_H

#include "base.h"
#include "hash.h"
#include "log.h"
#include "picks.h"
#include "selection.h"

/* pd_start.policy */
enum pd_start_policy {
    PD_START_ALL,
    PD_START_NEW,
    PD_START_LAST,
    PD_START_LAST_PER_SUBJECT,
    PD_START_BY_SEQUENCE,
    PD_START_BY_TIME
};

/* The first record that was appended at time_ns or later; last_sequence + 1 when there is none. */
int pd_start_at_time(const struct pd_log *log, uint64_t time_ns, uint64_t *sequence, pd_error *error);

/* Look for the newest record up to *to that matches: *found is its sequence, or 0 and *to is lowered to where the
 * next step looks. *to below the log's first: there is none. */
int pd_start_last_step(const struct pd_log *log, struct pd_span filter, struct pd_selection *scratch, uint64_t *to,
                       uint64_t *found, pd_error *error);

struct pd_newest_entry {
    struct pd_hash hash; /* of the subject */
    uint64_t sequence;
};

/* The newest record of each matching subject, while they are looked for. */
struct pd_newest {
    struct pd_hash_key key;
    struct pd_newest_entry *entries;
    size_t count;
    size_t capacity;
    uint32_t *slots; /* open addressing: place + 1, 0 for free */
    size_t slot_count;
    uint64_t *last; /* of each subject of the batch that is looked at */
    size_t last_capacity;
};

int pd_newest_init(struct pd_newest *newest, pd_error *error);
void pd_newest_fini(struct pd_newest *newest);

/* Look at some records from *at on, up to `to`, and move *at behind them. PD_LIMIT_REACHED: more than PD_PICKS_MAX
 * subjects match. */
int pd_newest_step(struct pd_newest *newest, const struct pd_log *log, struct pd_span filter,
                   struct pd_selection *scratch, uint64_t *at, uint64_t to, pd_error *error);

/* What was found, in the order of sequences. */
int pd_newest_finish(struct pd_newest *newest, struct pd_picks *picks, pd_error *error);

/* All of it at once, for records up to `to`. */
int pd_newest_collect(const struct pd_log *log, struct pd_span filter, struct pd_selection *scratch, uint64_t to,
                      struct pd_picks *picks, pd_error *error);

#endif
