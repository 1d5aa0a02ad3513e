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

/* Something that was out comes back: to be delivered again, or given up. The journal's change is open. */
static void give_back(struct pd_consumer *consumer, struct pd_out *entry)
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
    for (uint32_t i = 0; i < count; i++)
        if ((acks[i].kind == 0 || acks[i].kind == 3) && pd_outstanding_find(&consumer->out, acks[i].sequence) != NULL)
            pd_journal_run_add(&consumer->journal, PD_J_DONE, &run, acks[i].sequence);
    pd_journal_run_end(&consumer->journal, PD_J_DONE, &run);
    return pd_journal_commit(&consumer->journal, error);
}

static void apply_ack(struct pd_consumer *consumer, struct pd_out *entry, const pd_ack *ack, uint64_t now_ns)
{
    switch (ack->kind) {
    case 1:
        if (entry->state != PD_OUT_SENT)
            break;
        give_back(consumer, entry);
        if (entry->state == PD_OUT_READY && ack->delay_ms > 0) {
            entry->deadline_ns = now_ns + (uint64_t)ack->delay_ms * 1000000u;
            consumer->next_deadline = pd_min64(consumer->next_deadline, entry->deadline_ns);
            pd_outstanding_set(&consumer->out, entry, PD_OUT_DELAYED);
        }
        break;
    case 2:
        if (entry->state != PD_OUT_SENT)
            break;
        entry->deadline_ns = pd_add_saturating(now_ns, consumer->config.ack_wait_ns);
        consumer->next_deadline = pd_min64(consumer->next_deadline, entry->deadline_ns);
        break;
    default:
        pd_outstanding_remove(&consumer->out, entry);
        break;
    }
}

int pd_consumer_ack_all(struct pd_consumer *consumer, const pd_ack *acks, uint32_t count, uint64_t now_ns,
                        uint32_t *known, pd_error *error)
{
    *known = 0;
    for (uint32_t i = 0; i < count; i++)
        if (acks[i].kind > 3)
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

bool pd_consumer_release(struct pd_consumer *consumer, uint32_t owner)
{
    bool any = false;
    for (size_t i = consumer->out.start; i < consumer->out.end; i++) {
        struct pd_out *entry = &consumer->out.entries[i];
        if (entry->state == PD_OUT_SENT && entry->owner == owner) {
            give_back(consumer, entry);
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
            give_back(consumer, entry);
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
    *info = (pd_consumer_info){
        .ack_floor = (lowest != 0 ? lowest : consumer->next_sequence) - 1,
        .delivered_sequence = consumer->delivered_sequence,
        .pending = consumer->pending,
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
