/* What a consumer takes from its log: what is delivered again, what is new, and how much of that there is. */
#include "consumer.h"

#include "consumer_internal.h"
#include "erasure.h"
#include "subject.h"

static bool matches_all(const struct pd_consumer *consumer)
{
    return consumer->filter_length == 1 && consumer->filter[0] == '>';
}

struct pd_span pd_consumer_filter(const struct pd_consumer *consumer)
{
    return (struct pd_span){(const uint8_t *)consumer->filter, consumer->filter_length};
}

int pd_consumer_count(struct pd_consumer *consumer, const struct pd_log *log, uint64_t from, uint64_t to,
                      struct pd_selection *scratch, uint64_t *count, pd_error *error)
{
    struct pd_reader reader = {0};
    *count = 0;
    if (from > to)
        return PD_OK;
    if (matches_all(consumer)) {
        *count = pd_log_count(log, from, to);
        return PD_OK;
    }
    pd_selection_begin(scratch, 1, 0);
    for (uint64_t at = pd_log_next(log, from); at <= to; at = pd_log_next(log, at)) {
        int rc = pd_reader_seek_batch(&reader, log, at, error);
        if (rc != PD_OK)
            return rc;
        int matching = pd_selection_match(scratch, &reader, pd_consumer_filter(consumer));
        if (matching < 0)
            return pd_fail(error, PD_LIMIT_REACHED, "no memory to count the lag of consumer %s", consumer->name);
        uint64_t end = pd_min64(to + 1, reader.header.base_sequence + reader.header.record_count);
        if (matching == reader.header.subject_count)
            *count += pd_log_count(log, at, end - 1);
        for (; matching > 0 && matching < reader.header.subject_count && at < end; at = pd_log_next(log, at + 1)) {
            if ((rc = pd_reader_seek(&reader, log, at, error)) != PD_OK)
                return rc;
            *count += scratch->matches[reader.record.subject];
        }
        at = pd_max64(at, end);
    }
    return PD_OK;
}

void pd_consumer_appended(struct pd_consumer *consumer, const struct pd_log *log, const struct pd_batch_header *header,
                          const struct pd_span *subjects, const uint32_t *counts, struct pd_selection *scratch)
{
    if (consumer->next_sequence > header->base_sequence) { /* it begins in what was the future */
        pd_consumer_count(consumer, log, consumer->next_sequence, log->last_sequence, scratch, &consumer->pending,
                          NULL);
        return;
    }
    if (matches_all(consumer)) {
        consumer->pending += header->record_count;
        return;
    }
    for (uint32_t i = 0; i < header->subject_count; i++)
        if (counts[i] > 0 && pd_subject_matches(consumer->filter, consumer->filter_length,
                                                (const char *)subjects[i].data, subjects[i].length))
            consumer->pending += counts[i];
}

static int pick_again(struct pd_consumer *consumer, const struct pd_log *log, struct pd_selection *selection,
                      pd_error *error)
{
    uint32_t left = consumer->out.ready;
    for (size_t i = consumer->out.start; i < consumer->out.end && left > 0; i++) {
        const struct pd_out *entry = &consumer->out.entries[i];
        if (entry->state != PD_OUT_READY)
            continue;
        left--;
        int rc = pd_reader_seek(&consumer->again, log, entry->sequence, error);
        if (rc != PD_OK)
            return rc;
        if (!pd_selection_fits(selection, consumer->again.record.length))
            return PD_OK;
        if (selection->table_sequence != consumer->again.header.base_sequence &&
            pd_selection_match(selection, &consumer->again, pd_consumer_filter(consumer)) < 0)
            return pd_fail(error, PD_LIMIT_REACHED, "no memory for a delivery");
        if (!pd_selection_add(selection, &consumer->again, entry->deliveries + 1))
            return pd_fail(error, PD_LIMIT_REACHED, "no memory for a delivery");
    }
    return PD_OK;
}

uint64_t pd_consumer_room(const struct pd_consumer *consumer)
{
    uint64_t limit = consumer->config.max_ack_pending;
    uint64_t taken = consumer->out.live + pd_letters_count(&consumer->letters);
    if (consumer->config.ack_policy == PD_ACK_NONE)
        return UINT64_MAX;
    return taken < limit ? limit - taken : 0;
}

/* What a take is about to do: picks [0, again) go out again, [again, ahead) come from `ahead`, the rest are new. */
struct plan {
    size_t again;
    size_t ahead;
    uint64_t next; /* where looking for new ones ended */
};

/* Records that come before the new ones; *whole: there are no more of them. */
static int pick_ahead(struct pd_consumer *consumer, const struct pd_log *log, struct pd_selection *selection,
                      bool *whole, pd_error *error)
{
    const struct pd_picks *ahead = &consumer->ahead;
    uint64_t room = pd_consumer_room(consumer);
    *whole = false;
    for (size_t i = ahead->at; i < ahead->count; i++, room--) {
        if (room == 0)
            return PD_OK;
        int rc = pd_reader_seek(&consumer->again, log, ahead->sequences[i], error);
        if (rc != PD_OK)
            return rc;
        if (!pd_selection_fits(selection, consumer->again.record.length))
            return PD_OK;
        if (selection->table_sequence != consumer->again.header.base_sequence &&
            pd_selection_match(selection, &consumer->again, pd_consumer_filter(consumer)) < 0)
            return pd_fail(error, PD_LIMIT_REACHED, "no memory for a delivery");
        if (!pd_selection_add(selection, &consumer->again, 1))
            return pd_fail(error, PD_LIMIT_REACHED, "no memory for a delivery");
    }
    *whole = true;
    return PD_OK;
}

static int pick_new(struct pd_consumer *consumer, const struct pd_log *log, uint64_t visible,
                    struct pd_selection *selection, uint64_t room, uint64_t *next, pd_error *error)
{
    uint64_t left = pd_min64(consumer->pending, room);
    uint64_t unseen = consumer->pending;
    uint64_t at = consumer->next_sequence;
    uint64_t loaded = 0;
    int matching = 0;
    while (left > 0 && (at = pd_log_next(log, at)) <= visible) {
        int rc = pd_reader_seek_batch(&consumer->fresh, log, at, error);
        if (rc != PD_OK)
            return rc;
        const struct pd_batch_header *header = &consumer->fresh.header;
        if (loaded != header->base_sequence)
            matching = pd_selection_match(selection, &consumer->fresh, pd_consumer_filter(consumer));
        loaded = header->base_sequence;
        if (matching < 0)
            return pd_fail(error, PD_LIMIT_REACHED, "no memory for a delivery");
        if (matching == 0) {
            at = header->base_sequence + header->record_count;
            continue;
        }
        if ((rc = pd_reader_seek(&consumer->fresh, log, at, error)) != PD_OK)
            return rc;
        if (selection->matches[consumer->fresh.record.subject]) {
            if (!pd_selection_fits(selection, consumer->fresh.record.length))
                break;
            if (!pd_selection_add(selection, &consumer->fresh, 1))
                return pd_fail(error, PD_LIMIT_REACHED, "no memory for a delivery");
            left--;
            unseen--;
        }
        at++;
    }
    *next = unseen == 0 ? pd_max64(at, visible + 1) : at;
    return PD_OK;
}

static int pick(struct pd_consumer *consumer, const struct pd_log *log, uint64_t visible,
                struct pd_selection *selection, struct plan *plan, pd_error *error)
{
    bool whole = true;
    int rc = pick_again(consumer, log, selection, error);
    *plan = (struct plan){selection->count, selection->count, consumer->next_sequence};
    if (rc == PD_OK && pd_picks_left(&consumer->ahead) > 0) {
        rc = pick_ahead(consumer, log, selection, &whole, error);
        plan->ahead = selection->count;
    }
    if (rc == PD_OK && whole)
        rc = pick_new(consumer, log, visible, selection, pd_consumer_room(consumer) - (plan->ahead - plan->again),
                      &plan->next, error);
    return rc;
}

/* The journal's record of what is about to go out. */
static void journal_picks(struct pd_consumer *consumer, const struct pd_selection *selection, const struct plan *plan)
{
    struct pd_run run = {0};
    if (consumer->config.ack_policy == PD_ACK_NONE && plan->ahead > plan->again)
        pd_journal_add(&consumer->journal, PD_J_AHEAD_TO, 0, selection->picks[plan->ahead - 1].sequence);
    if (consumer->config.ack_policy == PD_ACK_NONE && selection->count > plan->ahead)
        pd_journal_add(&consumer->journal, PD_J_NEXT, 0, plan->next);
    for (size_t i = 0; i < selection->count; i++) {
        const struct pd_pick *pick = &selection->picks[i];
        uint32_t deliveries = pick->deliveries < PD_DELIVER_MAX ? pick->deliveries : PD_DELIVER_MAX;
        if (i < plan->again)
            pd_journal_add(&consumer->journal, PD_J_COUNT, (uint16_t)deliveries, pick->sequence);
        else if (consumer->config.ack_policy != PD_ACK_NONE)
            pd_journal_run_add(&consumer->journal, PD_J_RUN, &run, pick->sequence);
    }
    pd_journal_run_end(&consumer->journal, PD_J_RUN, &run);
}

static void send_out(struct pd_consumer *consumer, struct pd_out *entry, const struct pd_fetch *fetch, uint64_t now_ns)
{
    entry->deliveries++;
    entry->owner = fetch->owner;
    entry->deadline_ns = pd_add_saturating(now_ns, pd_consumer_patience(consumer, entry->deliveries));
    consumer->next_deadline = pd_min64(consumer->next_deadline, entry->deadline_ns);
    pd_outstanding_set(&consumer->out, entry, PD_OUT_SENT);
}

int pd_consumer_take(struct pd_consumer *consumer, const struct pd_log *log, uint64_t visible,
                     struct pd_selection *selection, struct pd_fetch *fetch, uint64_t now_ns, pd_error *error)
{
    struct plan plan;
    bool acked = consumer->config.ack_policy != PD_ACK_NONE;
    pd_selection_begin(selection, fetch->max_records, fetch->max_bytes);
    int rc = pick(consumer, log, visible, selection, &plan, error);
    if (rc == PD_OK && acked && !pd_outstanding_reserve(&consumer->out, selection->count - plan.again))
        rc = pd_fail(error, PD_LIMIT_REACHED, "no memory for what consumer %s has out", consumer->name);
    if (rc != PD_OK)
        return rc;
    if (selection->count > 0) {
        journal_picks(consumer, selection, &plan);
        if ((rc = pd_journal_commit(&consumer->journal, error)) != PD_OK)
            return rc;
    } else if (pd_consumer_lag(consumer) > 0 && pd_consumer_room(consumer) == 0 && !fetch->stalled) {
        fetch->stalled = true;
        consumer->stalled++;
        consumer->tellings.stalled = true;
    }
    for (size_t i = 0; i < plan.again; i++)
        send_out(consumer, pd_outstanding_find(&consumer->out, selection->picks[i].sequence), fetch, now_ns);
    for (size_t i = plan.again; i < selection->count && acked; i++)
        send_out(consumer, pd_outstanding_push(&consumer->out, selection->picks[i].sequence, PD_OUT_READY), fetch,
                 now_ns);
    consumer->redelivered += plan.again;
    consumer->pending -= selection->count - plan.ahead;
    consumer->next_sequence = plan.next;
    if (plan.ahead > plan.again)
        pd_picks_advance(&consumer->ahead, selection->picks[plan.ahead - 1].sequence);
    if (selection->count > plan.again)
        consumer->delivered_sequence = selection->picks[selection->count - 1].sequence;
    pd_consumer_compact(consumer);
    return PD_OK;
}

int pd_consumer_peek(struct pd_consumer *consumer, const struct pd_log *log, uint64_t visible,
                     struct pd_selection *scratch, bool *something, pd_error *error)
{
    struct plan plan = {.next = consumer->next_sequence};
    int rc = PD_OK;
    pd_selection_begin(scratch, 1, 0);
    if (consumer->out.ready == 0)
        rc = pick(consumer, log, visible, scratch, &plan, error);
    *something = consumer->out.ready > 0 || scratch->count > 0;
    if (rc == PD_OK && !*something)
        consumer->next_sequence = plan.next;
    return rc;
}
