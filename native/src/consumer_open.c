/* Opening a consumer: its journal's replay, and fitting what it says to the log that is there. */
#include "consumer.h"

#include "consumer_internal.h"
#include "start.h"
#include "subject.h"

#include <stdio.h>
#include <stdlib.h>

/* What the replay of a journal has to remember from one record to the next. */
struct pd_replay {
    char reason[PD_REASON_MAX];
    uint32_t reason_length;
};

/* One more that is out; replay may not go back in the order of sequences. */
static bool replay_out(struct pd_consumer *consumer, uint64_t sequence, uint32_t deliveries)
{
    const struct pd_outstanding *out = &consumer->out;
    if (out->end > out->start && out->entries[out->end - 1].sequence >= sequence)
        return false;
    struct pd_out *entry = pd_outstanding_push(&consumer->out, sequence, PD_OUT_SENT);
    if (entry != NULL)
        entry->deliveries = deliveries;
    return entry != NULL;
}

static bool replay_run(struct pd_consumer *consumer, const struct pd_journal_entry *entry)
{
    for (uint64_t i = 0; i < entry->number; i++)
        if (!replay_out(consumer, entry->sequence + i, 1))
            return false;
    uint64_t last = entry->sequence + entry->number - 1;
    pd_picks_advance(&consumer->ahead, last);
    consumer->next_sequence = pd_max64(consumer->next_sequence, last + 1);
    consumer->delivered_sequence = pd_max64(consumer->delivered_sequence, last);
    return true;
}

static bool replay_count(struct pd_consumer *consumer, const struct pd_journal_entry *entry)
{
    struct pd_out *known = pd_outstanding_find(&consumer->out, entry->sequence);
    if (known == NULL)
        return replay_out(consumer, entry->sequence, entry->number);
    known->deliveries = entry->number;
    return true;
}

static bool replay_ahead(struct pd_consumer *consumer, const struct pd_journal_entry *entry)
{
    for (uint64_t i = 0; i < entry->number; i++)
        if (!pd_picks_add(&consumer->ahead, entry->sequence + i))
            return false;
    return true;
}

/* How many of them were out. */
static uint64_t replay_done(struct pd_consumer *consumer, const struct pd_journal_entry *entry)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < entry->number; i++) {
        struct pd_out *known = pd_outstanding_find(&consumer->out, entry->sequence + i);
        if (known != NULL)
            pd_outstanding_remove(&consumer->out, known);
        count += known != NULL;
    }
    return count;
}

/* A piece of the reason of the letter that follows. */
static bool replay_text(struct pd_consumer *consumer, const struct pd_journal_entry *entry)
{
    struct pd_replay *replay = consumer->replay;
    if (entry->number > 8 || replay->reason_length + entry->number > sizeof replay->reason)
        return false;
    memcpy(replay->reason + replay->reason_length, &entry->sequence, entry->number);
    replay->reason_length += entry->number;
    return true;
}

static bool replay_letter(struct pd_consumer *consumer, const struct pd_journal_entry *entry)
{
    struct pd_replay *replay = consumer->replay;
    bool kept = entry->kind == PD_J_KEPT || entry->kind == PD_J_KEPT_TERM;
    struct pd_out *out = pd_outstanding_find(&consumer->out, entry->sequence);
    struct pd_letter letter = {
        .sequence = entry->sequence,
        .epoch = consumer->epoch,
        .deliveries = entry->number,
        .reason_length = replay->reason_length,
        .reason = replay->reason,
        .term = entry->kind == PD_J_LETTER_TERM || entry->kind == PD_J_KEPT_TERM,
    };
    replay->reason_length = 0;
    if (!kept && out == NULL) /* the same record twice in one change */
        return true;
    if (!kept)
        pd_outstanding_remove(&consumer->out, out);
    consumer->exhausted += !kept;
    return pd_letters_add(&consumer->letters, &letter);
}

static bool replay(void *context, const struct pd_journal_entry *entry)
{
    struct pd_consumer *consumer = context;
    switch (entry->kind) {
    case PD_J_NEXT:
        consumer->next_sequence = entry->sequence;
        if (consumer->config.ack_policy == PD_ACK_NONE)
            consumer->delivered_sequence = entry->sequence - 1;
        return true;
    case PD_J_RUN:
        return replay_run(consumer, entry);
    case PD_J_COUNT:
        return replay_count(consumer, entry);
    case PD_J_EXHAUSTED:
        consumer->exhausted += replay_done(consumer, entry);
        return true;
    case PD_J_DONE:
        replay_done(consumer, entry);
        return true;
    case PD_J_TOTAL:
        consumer->exhausted = entry->sequence;
        return true;
    case PD_J_DELIVERED:
        consumer->delivered_sequence = entry->sequence;
        return true;
    case PD_J_AHEAD:
        return replay_ahead(consumer, entry);
    case PD_J_AHEAD_TO:
        pd_picks_advance(&consumer->ahead, entry->sequence);
        consumer->delivered_sequence = pd_max64(consumer->delivered_sequence, entry->sequence);
        return true;
    case PD_J_UP_TO:
        pd_outstanding_remove_up_to(&consumer->out, entry->sequence);
        return true;
    case PD_J_BEGIN:
        consumer->begin_sequence = entry->sequence;
        return true;
    case PD_J_EPOCH:
        consumer->epoch = entry->sequence;
        return true;
    case PD_J_TEXT:
        return replay_text(consumer, entry);
    case PD_J_LETTER:
    case PD_J_LETTER_TERM:
    case PD_J_KEPT:
    case PD_J_KEPT_TERM:
        return replay_letter(consumer, entry);
    case PD_J_POSTED:
        pd_letters_remove(&consumer->letters, entry->sequence, UINT64_MAX);
        return true;
    default:
        return false;
    }
}

static void add_letters(struct pd_journal *fresh, const struct pd_letters *letters)
{
    for (size_t i = letters->start; i < letters->end; i++) {
        const struct pd_letter *letter = &letters->items[i];
        if (i == letters->start || letter->epoch != letters->items[i - 1].epoch)
            pd_journal_add(fresh, PD_J_EPOCH, 0, letter->epoch);
        pd_journal_letter(fresh, letter, letter->term ? PD_J_KEPT_TERM : PD_J_KEPT);
    }
}

static int write_anew(struct pd_consumer *consumer, pd_error *error)
{
    struct pd_journal *fresh = malloc(sizeof *fresh);
    if (fresh == NULL)
        return pd_fail(error, PD_LIMIT_REACHED, "no memory to write the journal of consumer %s", consumer->name);
    int rc = pd_journal_compact_begin(&consumer->journal, fresh, error);
    if (rc == PD_OK) {
        struct pd_run run = {0};
        add_letters(fresh, &consumer->letters);
        pd_journal_add(fresh, PD_J_EPOCH, 0, consumer->epoch);
        pd_journal_add(fresh, PD_J_TOTAL, 0, consumer->exhausted);
        pd_journal_add(fresh, PD_J_BEGIN, 0, consumer->begin_sequence);
        pd_journal_add(fresh, PD_J_NEXT, 0, consumer->next_sequence);
        pd_journal_add(fresh, PD_J_DELIVERED, 0, consumer->delivered_sequence);
        for (size_t i = consumer->ahead.at; i < consumer->ahead.count; i++)
            pd_journal_run_add(fresh, PD_J_AHEAD, &run, consumer->ahead.sequences[i]);
        pd_journal_run_end(fresh, PD_J_AHEAD, &run);
        for (size_t i = consumer->out.start; i < consumer->out.end; i++) {
            const struct pd_out *entry = &consumer->out.entries[i];
            uint32_t deliveries = entry->deliveries < PD_DELIVER_MAX ? entry->deliveries : PD_DELIVER_MAX;
            if (entry->state != PD_OUT_GONE)
                pd_journal_add(fresh, PD_J_COUNT, (uint16_t)deliveries, entry->sequence);
        }
        rc = pd_journal_compact_end(&consumer->journal, fresh, error);
    }
    free(fresh);
    return rc;
}

void pd_consumer_compact(struct pd_consumer *consumer)
{
    if (pd_journal_wants_compaction(&consumer->journal))
        write_anew(consumer, NULL);
}

/* The journal may know of records that the log lost with the machine's power: they will be others. */
static int fit_to_log(struct pd_consumer *consumer, const struct pd_log *log, pd_error *error)
{
    uint64_t end = log->last_sequence + 1;
    uint64_t begin = pd_max64(consumer->begin_sequence, consumer->config.start_sequence);
    if (consumer->next_sequence <= pd_max64(end, begin))
        return PD_OK;
    struct pd_outstanding *out = &consumer->out;
    while (out->live > 0 && out->entries[out->end - 1].sequence >= end)
        pd_outstanding_remove(out, &out->entries[out->end - 1]);
    pd_picks_cut(&consumer->ahead, end);
    for (size_t i = consumer->letters.end; i > consumer->letters.start; i--)
        if (consumer->letters.items[i - 1].sequence >= end)
            pd_letters_remove(&consumer->letters, consumer->letters.items[i - 1].sequence, UINT64_MAX);
    consumer->next_sequence = end;
    consumer->delivered_sequence = pd_min64(consumer->delivered_sequence, end - 1);
    return write_anew(consumer, error);
}

static int begin(struct pd_consumer *consumer, const struct pd_log *log, struct pd_selection *scratch,
                 struct pd_picks *ahead, pd_error *error)
{
    int rc = PD_OK;
    consumer->epoch = pd_wall_ns();
    consumer->begin_sequence = consumer->next_sequence = pd_max64(1, consumer->config.start_sequence);
    if (consumer->config.newest_first && ahead != NULL) {
        consumer->ahead = *ahead;
        *ahead = (struct pd_picks){0};
    } else if (consumer->config.newest_first) {
        uint64_t last = pd_min64(consumer->begin_sequence - 1, log->last_sequence);
        rc = pd_newest_collect(log, pd_consumer_filter(consumer), scratch, last, &consumer->ahead, error);
    }
    return rc == PD_OK ? write_anew(consumer, error) : rc; /* its beginning survives the machine */
}

int pd_consumer_seek_to(struct pd_consumer *consumer, const struct pd_log *log, uint64_t sequence,
                        struct pd_picks *ahead, struct pd_selection *scratch, pd_error *error)
{
    struct pd_consumer before = *consumer;
    uint64_t pending;
    consumer->epoch = pd_max64(consumer->epoch + 1, pd_wall_ns());
    consumer->begin_sequence = consumer->next_sequence = sequence;
    consumer->ahead = *ahead;
    pd_picks_advance(&consumer->ahead, pd_log_first_sequence(log) - 1);
    consumer->out = (struct pd_outstanding){0};
    consumer->delivered_sequence = 0;
    consumer->next_deadline = UINT64_MAX;
    uint64_t from = pd_max64(sequence, pd_log_first_sequence(log));
    int rc = pd_consumer_count(consumer, log, from, log->last_sequence, scratch, &pending, error);
    if (rc == PD_OK)
        rc = write_anew(consumer, error);
    if (rc != PD_OK) { /* the journal stayed as it was: so does all else */
        *ahead = consumer->ahead;
        consumer->epoch = before.epoch;
        consumer->begin_sequence = before.begin_sequence;
        consumer->next_sequence = before.next_sequence;
        consumer->delivered_sequence = before.delivered_sequence;
        consumer->next_deadline = before.next_deadline;
        consumer->ahead = before.ahead;
        consumer->out = before.out;
        return rc;
    }
    *ahead = (struct pd_picks){0};
    consumer->pending = pending;
    pd_consumer_skip_to(consumer, log, pd_log_first_sequence(log), scratch);
    pd_consumer_forget_erased(consumer, log);
    pd_picks_fini(&before.ahead);
    pd_outstanding_fini(&before.out);
    return PD_OK;
}

int pd_consumer_config_check(const pd_consumer_config *config, pd_error *error)
{
    if (config->max_ack_pending == 0 || config->max_ack_pending > PD_ACK_PENDING_MAX)
        return pd_fail(error, PD_INVALID, "max_ack_pending is %u; it is from 1 to %u", config->max_ack_pending,
                       PD_ACK_PENDING_MAX);
    if (config->max_deliver > PD_DELIVER_MAX)
        return pd_fail(error, PD_INVALID, "max_deliver is %u; the limit is %u", config->max_deliver, PD_DELIVER_MAX);
    if (config->backoff_count > PD_BACKOFF_MAX)
        return pd_fail(error, PD_INVALID, "backoff has %u steps; the limit is %u", config->backoff_count,
                       PD_BACKOFF_MAX);
    const char *dead = config->dead_letter_subject;
    const char *wrong =
        dead[0] != 0 ? pd_subject_error(dead, strnlen(dead, sizeof config->dead_letter_subject), false) : NULL;
    if (wrong != NULL)
        return pd_fail(error, PD_INVALID, "dead_letter_subject '%.255s' %s", dead, wrong);
    if (config->ack_policy > PD_ACK_NONE)
        return pd_fail(error, PD_INVALID, "ack_policy is %u; 0 to 2 are defined", config->ack_policy);
    return PD_OK;
}

int pd_consumer_init(struct pd_consumer *consumer, const char *name, const char *filter,
                     const pd_consumer_config *config, const char *journal_path, const struct pd_log *log,
                     struct pd_selection *scratch, struct pd_picks *ahead, pd_error *error)
{
    *consumer = (struct pd_consumer){.config = *config, .next_deadline = UINT64_MAX};
    consumer->waiting_end = &consumer->waiting;
    snprintf(consumer->name, sizeof consumer->name, "%s", name);
    snprintf(consumer->filter, sizeof consumer->filter, "%s", filter);
    consumer->filter_length = (uint32_t)strlen(consumer->filter);
    struct pd_replay replaying = {0};
    consumer->replay = &replaying;
    int rc = pd_journal_open(&consumer->journal, journal_path, replay, consumer, error);
    consumer->replay = NULL;
    if (rc != PD_OK)
        return rc;
    rc = consumer->next_sequence == 0 ? begin(consumer, log, scratch, ahead, error) : fit_to_log(consumer, log, error);
    if (rc == PD_OK) {
        pd_consumer_skip_to(consumer, log, pd_log_first_sequence(log), scratch);
        pd_consumer_forget_erased(consumer, log);
        pd_consumer_release(consumer, 0); /* whoever held them is gone */
        rc = pd_consumer_count(consumer, log, consumer->next_sequence, log->last_sequence, scratch, &consumer->pending,
                               error);
    }
    if (rc != PD_OK)
        pd_consumer_fini(consumer);
    return rc;
}

void pd_consumer_fini(struct pd_consumer *consumer)
{
    pd_journal_close(&consumer->journal);
    pd_outstanding_fini(&consumer->out);
    pd_picks_fini(&consumer->ahead);
    pd_letters_fini(&consumer->letters);
}
