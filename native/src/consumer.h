/* A consumer: a durable cursor over a stream's log with what is out and unacknowledged. Not thread-safe: the
 * stream's lock guards it. */
#ifndef PD_CONSUMER_H
#define PD_CONSUMER_H

#include "base.h"
#include "journal.h"
#include "letters.h"
#include "log.h"
#include "outstanding.h"
#include "picks.h"
#include "reader.h"
#include "selection.h"

#define PD_ACK_PENDING_MAX (1u << 20)
#define PD_DELIVER_MAX     65535u
#define PD_BACKOFF_MAX     16u

/* pd_consumer_config.ack_policy */
enum pd_ack_policy { PD_ACK_EXPLICIT, PD_ACK_ALL, PD_ACK_NONE };

/* pd_ack.kind */
enum pd_ack_kind { PD_ACK_DONE, PD_ACK_NAK, PD_ACK_IN_PROGRESS, PD_ACK_TERM };

struct pd_replay;

/* A fetch: what is wanted, who waits, and what came of it. Embedded in what waits; next is the list's. */
struct pd_fetch {
    struct pd_fetch *next;
    uint64_t max_bytes;
    uint64_t deadline_ns; /* of pd_mono_ns; a time that is past: does not wait */
    uint32_t max_records;
    uint32_t owner;                                           /* nng pipe; 0: in process */
    bool notice;                                              /* wants to know that there is something, no more */
    bool stalled;                                             /* was counted as held back by max_ack_pending */
    bool (*alive)(const struct pd_fetch *fetch);              /* whether owner is still there; NULL: always */
    uint8_t *(*reserve)(struct pd_fetch *fetch, size_t size); /* memory for the block; NULL: there is none */
    void (*finish)(struct pd_fetch *fetch);                   /* called once, with no lock held */
    int status;
    uint32_t records;
    uint32_t ack_pending;
    uint64_t lag;
    pd_error error;
};

/* What is to be told of a consumer, and when it was. */
struct pd_tellings {
    bool stalled; /* a fetch was held back, and there is no room yet */
    bool stall_told;
    uint64_t stall_told_ns;
    uint64_t exhausted; /* records given up and not told yet */
    uint64_t exhausted_told_ns;
};

#define PD_TELL_STALLED   1u
#define PD_TELL_RESUMED   2u
#define PD_TELL_EXHAUSTED 4u

/* Acknowledgements with the reasons of those that have one. */
struct pd_acks {
    const pd_ack *acks;
    uint32_t count;
    const uint8_t *reasons;
    size_t reasons_length;
};

struct pd_consumer {
    char name[PD_NAME_MAX + 1];
    char filter[256];
    uint32_t filter_length;
    pd_consumer_config config;
    uint64_t begin_sequence;     /* where it was told to begin, which may be in the future */
    uint64_t next_sequence;      /* all below were looked at */
    uint64_t delivered_sequence; /* the highest */
    uint64_t pending;            /* matching records from next_sequence to the log's last */
    struct pd_picks ahead;       /* to be delivered before next_sequence */
    uint64_t epoch;              /* tells its life from those before a seek, or of its name before */
    struct pd_letters letters;   /* given up, and to be stored elsewhere */
    struct pd_tellings tellings;
    uint64_t active_ns; /* when it last was fetched from or acknowledged to */
    uint64_t redelivered;
    uint64_t exhausted;
    uint64_t stalled;
    struct pd_outstanding out;
    struct pd_journal journal;
    struct pd_replay *replay; /* while the journal is opened */
    struct pd_reader fresh;   /* at next_sequence */
    struct pd_reader again;   /* at what is delivered again */
    uint64_t next_deadline;   /* none of out's deadlines is earlier */
    struct pd_fetch *waiting;
    struct pd_fetch **waiting_end;
    uint32_t waiting_count;
};

/* Open its journal (which makes it new when there is none) and count its lag. scratch: any selection. ahead: what
 * config->newest_first asks for, when somebody has collected it already; it is emptied. */
int pd_consumer_init(struct pd_consumer *consumer, const char *name, const char *filter,
                     const pd_consumer_config *config, const char *journal_path, const struct pd_log *log,
                     struct pd_selection *scratch, struct pd_picks *ahead, pd_error *error);
void pd_consumer_fini(struct pd_consumer *consumer);

/* What is wrong with a configuration, or PD_OK. */
int pd_consumer_config_check(const pd_consumer_config *config, pd_error *error);

/* New limits. What is over them is given up. */
int pd_consumer_change(struct pd_consumer *consumer, const pd_consumer_config *config, pd_error *error);

/* Begin anew at a sequence, after what is in `ahead` (which is emptied); what is out is forgotten. Durable with
 * PD_OK, and as it was otherwise. */
int pd_consumer_seek_to(struct pd_consumer *consumer, const struct pd_log *log, uint64_t sequence,
                        struct pd_picks *ahead, struct pd_selection *scratch, pd_error *error);

/* Records were appended to the log: header has the stamp, counts[i] records have subject i. */
void pd_consumer_appended(struct pd_consumer *consumer, const struct pd_log *log, const struct pd_batch_header *header,
                          const struct pd_span *subjects, const uint32_t *counts, struct pd_selection *scratch);

/* Take what a fetch may have of the records up to `visible` into the selection: first what is to be delivered
 * again, then new ones. The journal has it when PD_OK is returned. Nothing there: selection->count is 0. */
int pd_consumer_take(struct pd_consumer *consumer, const struct pd_log *log, uint64_t visible,
                     struct pd_selection *selection, struct pd_fetch *fetch, uint64_t now_ns, pd_error *error);

/* Whether pd_consumer_take would give something. */
int pd_consumer_peek(struct pd_consumer *consumer, const struct pd_log *log, uint64_t visible,
                     struct pd_selection *scratch, bool *something, pd_error *error);

/* What was never delivered. */
static inline uint64_t pd_consumer_lag(const struct pd_consumer *consumer)
{
    return consumer->pending + pd_picks_left(&consumer->ahead);
}

/* How many records may go out for the first time now. */
uint64_t pd_consumer_room(const struct pd_consumer *consumer);

/* What is wrong with acknowledgements, or PD_OK. */
int pd_acks_check(const struct pd_acks *acks, pd_error *error);

/* Checked ones. *known: how many of them were of deliveries that are out. */
int pd_consumer_ack_all(struct pd_consumer *consumer, const struct pd_acks *acks, uint64_t now_ns, uint32_t *known,
                        pd_error *error);

/* The dead letters of these were stored, or their records are gone: they are done. */
int pd_consumer_posted(struct pd_consumer *consumer, const struct pd_letter *letters, size_t count, pd_error *error);

/* What is to be told now (PD_TELL_*), which counts as told then; *exhausted: how many records were given up. */
unsigned pd_consumer_tell(struct pd_consumer *consumer, uint64_t now_ns, uint64_t *exhausted);

/* When there will be something to tell that was told too lately; UINT64_MAX: nothing. */
uint64_t pd_consumer_tell_due(const struct pd_consumer *consumer);

/* What went to a pipe that is gone is free; true when something was. */
bool pd_consumer_release(struct pd_consumer *consumer, uint32_t owner);

/* Give back what was out too long; the next deadline, UINT64_MAX for none. */
uint64_t pd_consumer_tick(struct pd_consumer *consumer, uint64_t now_ns);

/* Everything below `first` is about to be dropped from the log. */
void pd_consumer_skip_to(struct pd_consumer *consumer, const struct pd_log *log, uint64_t first,
                         struct pd_selection *scratch);

/* Whether the consumer has no use for the record any more: it was acknowledged, given up or passed over. */
bool pd_consumer_is_done(struct pd_consumer *consumer, uint64_t sequence);

/* Records are about to be erased: from `from` to `to`, or one whose subject is known. */
void pd_consumer_forget(struct pd_consumer *consumer, const struct pd_log *log, uint64_t from, uint64_t to,
                        struct pd_selection *scratch);
void pd_consumer_forget_one(struct pd_consumer *consumer, uint64_t sequence, struct pd_span subject);

/* The same for what is out and was erased when the journal was not looking. */
void pd_consumer_forget_erased(struct pd_consumer *consumer, const struct pd_log *log);

void pd_consumer_info_fill(const struct pd_consumer *consumer, pd_consumer_info *info);

/* Fetches that wait, first come first served. */
void pd_consumer_park(struct pd_consumer *consumer, struct pd_fetch *fetch);
struct pd_fetch *pd_consumer_unpark(struct pd_consumer *consumer);

#endif
