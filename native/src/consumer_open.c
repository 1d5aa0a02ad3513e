/* Opening a consumer: its journal's replay, and fitting what it says to the log that is there. */
#include "consumer.h"

#include "consumer_internal.h"
#include "subject.h"

#include <stdio.h>
#include <stdlib.h>

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
    consumer->next_sequence = pd_max64(consumer->next_sequence, entry->sequence + entry->number);
    consumer->delivered_sequence = consumer->next_sequence - 1;
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

static void replay_done(struct pd_consumer *consumer, const struct pd_journal_entry *entry)
{
    for (uint64_t i = 0; i < entry->number; i++) {
        struct pd_out *known = pd_outstanding_find(&consumer->out, entry->sequence + i);
        if (known != NULL)
            pd_outstanding_remove(&consumer->out, known);
    }
}

static bool replay(void *context, const struct pd_journal_entry *entry)
{
    struct pd_consumer *consumer = context;
    switch (entry->kind) {
    case PD_J_NEXT:
        consumer->next_sequence = entry->sequence;
        if (consumer->config.ack_none)
            consumer->delivered_sequence = entry->sequence - 1;
        return true;
    case PD_J_RUN:
        return replay_run(consumer, entry);
    case PD_J_COUNT:
        return replay_count(consumer, entry);
    case PD_J_EXHAUSTED:
        consumer->exhausted++;
        replay_done(consumer, entry);
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
    default:
        return false;
    }
}

static int write_anew(struct pd_consumer *consumer, pd_error *error)
{
    struct pd_journal *fresh = malloc(sizeof *fresh);
    if (fresh == NULL)
        return pd_fail(error, PD_LIMIT_REACHED, "no memory to write the journal of consumer %s", consumer->name);
    int rc = pd_journal_compact_begin(&consumer->journal, fresh, error);
    if (rc == PD_OK) {
        pd_journal_add(fresh, PD_J_TOTAL, 0, consumer->exhausted);
        pd_journal_add(fresh, PD_J_NEXT, 0, consumer->next_sequence);
        pd_journal_add(fresh, PD_J_DELIVERED, 0, consumer->delivered_sequence);
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
    bool ahead = consumer->next_sequence > pd_max64(end, consumer->config.start_sequence);
    if (!ahead)
        return PD_OK;
    struct pd_outstanding *out = &consumer->out;
    while (out->live > 0 && out->entries[out->end - 1].sequence >= end)
        pd_outstanding_remove(out, &out->entries[out->end - 1]);
    consumer->next_sequence = end;
    consumer->delivered_sequence = pd_min64(consumer->delivered_sequence, end - 1);
    return write_anew(consumer, error);
}

static int begin(struct pd_consumer *consumer, pd_error *error)
{
    consumer->next_sequence = pd_max64(1, consumer->config.start_sequence);
    pd_journal_add(&consumer->journal, PD_J_NEXT, 0, consumer->next_sequence);
    return pd_journal_commit(&consumer->journal, error);
}

int pd_consumer_config_check(const pd_consumer_config *config, pd_error *error)
{
    if (config->max_ack_pending == 0 || config->max_ack_pending > PD_ACK_PENDING_MAX)
        return pd_fail(error, PD_INVALID, "max_ack_pending is %u; it is from 1 to %u", config->max_ack_pending,
                       PD_ACK_PENDING_MAX);
    if (config->max_deliver > PD_DELIVER_MAX)
        return pd_fail(error, PD_INVALID, "max_deliver is %u; the limit is %u", config->max_deliver, PD_DELIVER_MAX);
    return PD_OK;
}

int pd_consumer_init(struct pd_consumer *consumer, const char *name, const char *filter,
                     const pd_consumer_config *config, const char *journal_path, const struct pd_log *log,
                     struct pd_selection *scratch, pd_error *error)
{
    *consumer = (struct pd_consumer){.config = *config, .next_deadline = UINT64_MAX};
    consumer->waiting_end = &consumer->waiting;
    snprintf(consumer->name, sizeof consumer->name, "%s", name);
    snprintf(consumer->filter, sizeof consumer->filter, "%s", filter);
    consumer->filter_length = (uint32_t)strlen(consumer->filter);
    int rc = pd_journal_open(&consumer->journal, journal_path, replay, consumer, error);
    if (rc != PD_OK)
        return rc;
    rc = consumer->next_sequence == 0 ? begin(consumer, error) : fit_to_log(consumer, log, error);
    if (rc == PD_OK) {
        pd_consumer_skip_to(consumer, log, pd_log_first_sequence(log), scratch);
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
}
