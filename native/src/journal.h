/* What a consumer (or erasure.c) has to remember, in an append-only file of 16-byte records. The layout is at the head
 * of journal.c. */
#ifndef PD_JOURNAL_H
#define PD_JOURNAL_H

#include "base.h"

enum pd_journal_kind {
    PD_J_START = 1,        /* first record of the file; sequence is a magic number */
    PD_J_NEXT = 2,         /* everything below sequence was looked at */
    PD_J_RUN = 3,          /* sequence and the number - 1 that follow were delivered for the first time */
    PD_J_COUNT = 4,        /* sequence is out and was delivered `number` times */
    PD_J_DONE = 5,         /* sequence and the number - 1 that follow are done */
    PD_J_EXHAUSTED = 6,    /* sequence was given up */
    PD_J_TOTAL = 7,        /* so many (sequence) were given up before */
    PD_J_DELIVERED = 8,    /* sequence is the highest that was delivered */
    PD_J_AHEAD = 9,        /* sequence and the number - 1 that follow are to be delivered before NEXT */
    PD_J_AHEAD_TO = 10,    /* those of them up to sequence were delivered, and are done */
    PD_J_UP_TO = 11,       /* all that is out up to sequence is done */
    PD_J_BEGIN = 12,       /* the consumer was told to begin at sequence */
    PD_J_EPOCH = 13,       /* sequence is the epoch of what follows */
    PD_J_TEXT = 14,        /* the `number` lowest bytes of sequence are a piece of the next letter's reason */
    PD_J_LETTER = 15,      /* sequence was given up after `number` deliveries; its dead letter is to be stored */
    PD_J_LETTER_TERM = 16, /* the same, by a term */
    PD_J_KEPT = 17,        /* as LETTER, of one that is not out any more */
    PD_J_KEPT_TERM = 18,
    PD_J_POSTED = 19, /* the dead letter of sequence is stored */

    PD_J_ERASED = 32, /* of a log, not of a consumer: see erasure.c */
    PD_J_RANGE = 33,
    PD_J_ERASED_TO = 34,
    PD_J_GONE_TO = 35,
    PD_J_NEWEST = 36
};

struct pd_journal_entry {
    uint32_t crc; /* of the 12 bytes that follow */
    uint8_t kind;
    uint8_t zero;
    uint16_t number;
    uint64_t sequence;
};

#define PD_JOURNAL_BUFFER 256

struct pd_journal {
    char *path;
    int fd;
    uint64_t size;       /* of what is written and good */
    uint64_t compact_at; /* the size at which it is worth writing it anew */
    struct pd_journal_entry buffer[PD_JOURNAL_BUFFER];
    size_t buffered;
    uint64_t written; /* size plus what the change under way has written */
    int failed;       /* a pd_status: the change under way cannot be written */
};

/* Called for each record of the file, in order; false refuses it, and the file is cut there. */
typedef bool (*pd_journal_replay)(void *context, const struct pd_journal_entry *entry);

/* Open the file, which need not be there, and replay it. A torn tail is cut. */
int pd_journal_open(struct pd_journal *journal, const char *path, pd_journal_replay replay, void *context,
                    pd_error *error);
void pd_journal_close(struct pd_journal *journal);

/* A change: any number of adds, then one commit, which hands them to the system (they survive the daemon's
 * death). When that fails nothing of the change is in the file. */
void pd_journal_add(struct pd_journal *journal, enum pd_journal_kind kind, uint16_t number, uint64_t sequence);
int pd_journal_commit(struct pd_journal *journal, pd_error *error);

/* Add one record for each run of consecutive numbers among those given one after the other. */
struct pd_run {
    uint64_t first;
    uint64_t count;
};
void pd_journal_run_add(struct pd_journal *journal, enum pd_journal_kind kind, struct pd_run *run, uint64_t sequence);
void pd_journal_run_end(struct pd_journal *journal, enum pd_journal_kind kind, struct pd_run *run);

/* Whether it has grown enough to be written anew; begin, then add everything, then end puts the new file in
 * the old one's place, durably. When that fails the old one stays. */
bool pd_journal_wants_compaction(const struct pd_journal *journal);
int pd_journal_compact_begin(const struct pd_journal *journal, struct pd_journal *fresh, pd_error *error);
int pd_journal_compact_end(struct pd_journal *journal, struct pd_journal *fresh, pd_error *error);

#endif
