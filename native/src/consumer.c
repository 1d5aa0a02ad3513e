/* A consumer: a durable cursor over a stream's log.
 *
 * Every matching record below next_sequence is in one of three states: done, given up (exhausted), or out:
 *
 *     new --take--> SENT --ack, term--> done
 *                   SENT --ack_wait over, client gone, nak--> READY --take--> SENT
 *                   SENT --nak with delay--> DELAYED --delay over--> READY
 *                   what would become READY after max_deliver deliveries is given up instead
 *
 * A change is first decided (which records, which acknowledgements are known), then written to the journal,
 * then made: when the journal cannot be written nothing has changed and the caller is told.
 *
 * The lag is counted, not computed: an append adds what matches, a take subtracts it. Opening counts anew.
 * consumer_take.c has what is taken from the log, consumer_open.c opening and the journal's replay.
 */
#include "consumer.h"

#include "consumer_internal.h"

void pd_consumer_give_back(struct pd_consumer *consumer, struct pd_out *entry)
{
    uint32_t limit = consumer->config.max_deliver;
    if (limit == 0 || entry->deliveries < limit) {
        pd_outstanding_set(&consumer->out, entry, PD_OUT_READY);
        return;
    }
    pd_journal_add(&consumer->journal, PD_J_EXHAUSTED, 1, entry->sequence);
    pd_outstanding_remove(&consumer->out, entry);
    consumer->exhausted++;
}

/* Write to the journal what will be done. */
static int journal_acks(struct pd_consumer *consumer, const pd_ack *acks, uint32_t count, pd_error *error)
{
    struct pd_run run = {0};
    bool all = consumer->config.ack_policy == PD_ACK_ALL;
    uint64_t up_to = 0;
    for (uint32_t i = 0; i < count; i++) {
        bool done = acks[i].kind == PD_ACK_DONE;
        if ((!done && acks[i].kind != PD_ACK_TERM) || pd_outstanding_find(&consumer->out, acks[i].sequence) == NULL)
            continue;
        if (!done && acks[i].sequence <= up_to) /* an acknowledgement before it has it already */
            continue;
        if (!done)
            pd_journal_add(&consumer->journal, PD_J_EXHAUSTED, 1, acks[i].sequence);
        else if (all)
            up_to = pd_max64(up_to, acks[i].sequence);
        else
            pd_journal_run_add(&consumer->journal, PD_J_DONE, &run, acks[i].sequence);
    }
    pd_journal_run_end(&consumer->journal, PD_J_DONE, &run);
    if (up_to > 0)
        pd_journal_add(&consumer->journal, PD_J_UP_TO, 0, up_to);
    return pd_journal_commit(&consumer->journal, error);
}

static void apply_ack(struct pd_consumer *consumer, struct pd_out *entry, const pd_ack *ack, uint64_t now_ns)
{
    switch (ack->kind) {
    case PD_ACK_NAK:
        if (entry->state != PD_OUT_SENT)
            break;
        pd_consumer_give_back(consumer, entry);
        if (entry->state == PD_OUT_READY && ack->delay_ms > 0) {
            entry->deadline_ns = now_ns + (uint64_t)ack->delay_ms * 1000000u;
            consumer->next_deadline = pd_min64(consumer->next_deadline, entry->deadline_ns);
            pd_outstanding_set(&consumer->out, entry, PD_OUT_DELAYED);
        }
        break;
    case PD_ACK_IN_PROGRESS:
        if (entry->state != PD_OUT_SENT)
            break;
        entry->deadline_ns = pd_add_saturating(now_ns, pd_consumer_patience(consumer, entry->deliveries));
        consumer->next_deadline = pd_min64(consumer->next_deadline, entry->deadline_ns);
        break;
    case PD_ACK_TERM:
        pd_outstanding_remove(&consumer->out, entry);
        consumer->exhausted++;
        break;
    default:
        if (consumer->config.ack_policy == PD_ACK_ALL)
            pd_outstanding_remove_up_to(&consumer->out, ack->sequence);
        else
            pd_outstanding_remove(&consumer->out, entry);
        break;
    }
}

int pd_consumer_ack_all(struct pd_consumer *consumer, const pd_ack *acks, uint32_t count, uint64_t now_ns,
                        uint32_t *known, pd_error *error)
{
    *known = 0;
    for (uint32_t i = 0; i < count; i++)
        if (acks[i].kind > PD_ACK_TERM)
            return pd_fail(error, PD_INVALID, "acknowledgement %u is of kind %u; 0 to 3 are defined", i, acks[i].kind);
    int rc = journal_acks(consumer, acks, count, error);
    if (rc != PD_OK)
        return rc;
    for (uint32_t i = 0; i < count; i++) {
        struct pd_out *entry = pd_outstanding_find(&consumer->out, acks[i].sequence);
        if (entry == NULL)
            continue;
        apply_ack(consumer, entry, &acks[i], now_ns);
        ++*known;
    }
    rc = pd_journal_commit(&consumer->journal, error); /* what a nak gave up */
    pd_consumer_compact(consumer);
    return rc;
}

int pd_consumer_change(struct pd_consumer *consumer, const pd_consumer_config *config, pd_error *error)
{
    consumer->config = *config;
    for (size_t i = consumer->out.start; i < consumer->out.end && config->max_deliver != 0; i++) {
        struct pd_out *entry = &consumer->out.entries[i];
        bool waits = entry->state == PD_OUT_READY || entry->state == PD_OUT_DELAYED;
        if (waits && entry->deliveries >= config->max_deliver)
            pd_consumer_give_back(consumer, entry);
    }
    return pd_journal_commit(&consumer->journal, error);
}

bool pd_consumer_release(struct pd_consumer *consumer, uint32_t owner)
{
    bool any = false;
    for (size_t i = consumer->out.start; i < consumer->out.end; i++) {
        struct pd_out *entry = &consumer->out.entries[i];
        if (entry->state == PD_OUT_SENT && entry->owner == owner) {
            pd_consumer_give_back(consumer, entry);
            any = true;
        }
    }
    pd_journal_commit(&consumer->journal, NULL);
    return any;
}

uint64_t pd_consumer_tick(struct pd_consumer *consumer, uint64_t now_ns)
{
    if (now_ns < consumer->next_deadline)
        return consumer->next_deadline;
    uint64_t next = UINT64_MAX;
    for (size_t i = consumer->out.start; i < consumer->out.end; i++) {
        struct pd_out *entry = &consumer->out.entries[i];
        if (entry->state != PD_OUT_SENT && entry->state != PD_OUT_DELAYED)
            continue;
        if (entry->deadline_ns > now_ns)
            next = pd_min64(next, entry->deadline_ns);
        else if (entry->state == PD_OUT_SENT)
            pd_consumer_give_back(consumer, entry);
        else
            pd_outstanding_set(&consumer->out, entry, PD_OUT_READY);
    }
    pd_journal_commit(&consumer->journal, NULL);
    consumer->next_deadline = next;
    return next;
}

void pd_consumer_skip_to(struct pd_consumer *consumer, const struct pd_log *log, uint64_t first,
                         struct pd_selection *scratch)
{
    while (consumer->out.live > 0 && pd_outstanding_lowest(&consumer->out) < first)
        pd_outstanding_remove(&consumer->out, &consumer->out.entries[consumer->out.start]);
    pd_picks_advance(&consumer->ahead, first - 1);
    if (consumer->next_sequence >= first)
        return;
    uint64_t gone = 0;
    uint64_t from = pd_max64(consumer->next_sequence, pd_log_first_sequence(log));
    if (pd_consumer_count(consumer, log, from, first - 1, scratch, &gone, NULL) == PD_OK)
        consumer->pending -= pd_min64(gone, consumer->pending);
    consumer->next_sequence = first;
}

void pd_consumer_info_fill(const struct pd_consumer *consumer, pd_consumer_info *info)
{
    uint64_t lowest = pd_outstanding_lowest(&consumer->out);
    if (pd_picks_left(&consumer->ahead) > 0 && (lowest == 0 || consumer->ahead.sequences[consumer->ahead.at] < lowest))
        lowest = consumer->ahead.sequences[consumer->ahead.at];
    *info = (pd_consumer_info){
        .ack_floor = (lowest != 0 ? lowest : consumer->next_sequence) - 1,
        .delivered_sequence = consumer->delivered_sequence,
        .pending = pd_consumer_lag(consumer),
        .ack_pending = consumer->out.live,
        .redelivered = consumer->redelivered,
        .exhausted = consumer->exhausted,
        .stalled = consumer->stalled,
        .waiting = consumer->waiting_count,
    };
}

void pd_consumer_park(struct pd_consumer *consumer, struct pd_fetch *fetch)
{
    fetch->next = NULL;
    *consumer->waiting_end = fetch;
    consumer->waiting_end = &fetch->next;
    consumer->waiting_count++;
}

struct pd_fetch *pd_consumer_unpark(struct pd_consumer *consumer)
{
    struct pd_fetch *fetch = consumer->waiting;
    if (fetch == NULL)
        return NULL;
    consumer->waiting = fetch->next;
    if (consumer->waiting == NULL)
        consumer->waiting_end = &consumer->waiting;
    consumer->waiting_count--;
    return fetch;
}
