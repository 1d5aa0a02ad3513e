/* A consumer: a durable cursor over a stream's log.
 *
 * Every matching record below next_sequence is in one of three states: done, given up (exhausted), or out:
 *
 *     new --take--> SENT --ack, term--> done
 *                   SENT --ack_wait over, client gone, nak--> READY --take--> SENT
 *                   SENT --nak with delay--> DELAYED --delay over--> READY
 *                   what would become READY after max_deliver deliveries is given up instead, as by term
 *
 * What is given up is done at once, or, when there is a subject for dead letters, once its letter is stored there
 * (stream_letters.c): until then it stands in `letters`, holds the floor, and counts against max_ack_pending. A
 * seek leaves it there.
 *
 * A change is first decided (which records, which acknowledgements are known), then written to the journal,
 * then made: when the journal cannot be written nothing has changed and the caller is told.
 *
 * The lag is counted, not computed: an append adds what matches, a take subtracts it. Opening counts anew.
 * consumer_take.c has what is taken from the log, consumer_open.c opening and the journal's replay.
 */
#include "consumer.h"

#include "advisory.h"
#include "consumer_internal.h"

void pd_journal_letter(struct pd_journal *journal, const struct pd_letter *letter, enum pd_journal_kind kind)
{
    for (uint32_t at = 0; at < letter->reason_length; at += 8) { /* first: a letter without its text would be wrong */
        uint64_t piece = 0;
        uint32_t length = letter->reason_length - at < 8 ? letter->reason_length - at : 8;
        memcpy(&piece, letter->reason + at, length);
        pd_journal_add(journal, PD_J_TEXT, (uint16_t)length, piece);
    }
    uint32_t deliveries = letter->deliveries < PD_DELIVER_MAX ? letter->deliveries : PD_DELIVER_MAX;
    pd_journal_add(journal, kind, (uint16_t)deliveries, letter->sequence);
}

void pd_consumer_journal_give_up(struct pd_consumer *consumer, const struct pd_letter *letter)
{
    if (consumer->config.dead_letter_subject[0] == 0)
        pd_journal_add(&consumer->journal, PD_J_EXHAUSTED, 1, letter->sequence);
    else
        pd_journal_letter(&consumer->journal, letter, letter->term ? PD_J_LETTER_TERM : PD_J_LETTER);
}

void pd_consumer_give_up(struct pd_consumer *consumer, struct pd_out *entry, struct pd_letter *letter)
{
    letter->epoch = consumer->epoch;
    if (consumer->config.dead_letter_subject[0] != 0 && !pd_letters_add(&consumer->letters, letter)) {
        pd_outstanding_set(&consumer->out, entry, PD_OUT_READY); /* no memory: it is given up another time */
        return;
    }
    pd_outstanding_remove(&consumer->out, entry);
    consumer->exhausted++;
    consumer->tellings.exhausted++;
}

void pd_consumer_give_back(struct pd_consumer *consumer, struct pd_out *entry)
{
    uint32_t limit = consumer->config.max_deliver;
    if (limit == 0 || entry->deliveries < limit) {
        pd_outstanding_set(&consumer->out, entry, PD_OUT_READY);
        return;
    }
    struct pd_letter letter = {.sequence = entry->sequence, .deliveries = entry->deliveries};
    pd_consumer_journal_give_up(consumer, &letter);
    pd_consumer_give_up(consumer, entry, &letter);
}

int pd_acks_check(const struct pd_acks *acks, pd_error *error)
{
    size_t at = 0;
    unsigned unusual = acks->reasons_length != 0;
    for (uint32_t i = 0; i < acks->count; i++) /* nearly always there is nothing more to look at */
        unusual |= acks->acks[i].reason_length | acks->acks[i].kind >> 2;
    for (uint32_t i = 0; unusual != 0 && i < acks->count; i++) {
        const pd_ack *ack = &acks->acks[i];
        size_t length = ack->reason_length;
        if (ack->kind > PD_ACK_TERM)
            return pd_fail(error, PD_INVALID, "acknowledgement %u is of kind %u; 0 to 3 are defined", i, ack->kind);
        if (length > PD_REASON_MAX)
            return pd_fail(error, PD_INVALID, "the reason of acknowledgement %u has %zu bytes; the limit is %u", i,
                           length, PD_REASON_MAX);
        if (length > acks->reasons_length - at)
            return pd_fail(error, PD_INVALID, "the reason of acknowledgement %u is cut off", i);
        if (length > 0 && !pd_utf8_valid(acks->reasons + at, length))
            return pd_fail(error, PD_INVALID, "the reason of acknowledgement %u is not UTF-8", i);
        at += length;
    }
    if (at != acks->reasons_length)
        return pd_fail(error, PD_INVALID, "%zu bytes follow the last reason", acks->reasons_length - at);
    return PD_OK;
}

static struct pd_letter term_letter(const struct pd_acks *acks, uint32_t index, size_t reason,
                                    const struct pd_out *entry)
{
    return (struct pd_letter){
        .sequence = entry->sequence,
        .deliveries = entry->deliveries,
        .term = true,
        .reason_length = acks->acks[index].reason_length,
        .reason = (char *)(uintptr_t)acks->reasons + reason,
    };
}

/* Write to the journal what will be done. */
static int journal_acks(struct pd_consumer *consumer, const struct pd_acks *acks, pd_error *error)
{
    struct pd_run run = {0};
    bool all = consumer->config.ack_policy == PD_ACK_ALL;
    uint64_t up_to = 0;
    size_t reason = 0;
    for (uint32_t i = 0; i < acks->count; reason += acks->acks[i++].reason_length) {
        const pd_ack *ack = &acks->acks[i];
        if (ack->kind != PD_ACK_DONE && ack->kind != PD_ACK_TERM)
            continue;
        const struct pd_out *entry = pd_outstanding_find(&consumer->out, ack->sequence);
        if (entry == NULL)
            continue;
        if (ack->kind == PD_ACK_DONE && !all)
            pd_journal_run_add(&consumer->journal, PD_J_DONE, &run, ack->sequence);
        else if (ack->kind == PD_ACK_DONE)
            up_to = pd_max64(up_to, ack->sequence);
        if (ack->kind == PD_ACK_DONE || ack->sequence <= up_to) /* an acknowledgement before it has it already */
            continue;
        struct pd_letter letter = term_letter(acks, i, reason, entry);
        pd_journal_run_end(&consumer->journal, PD_J_DONE, &run); /* the order tells which of the two it was */
        pd_consumer_journal_give_up(consumer, &letter);
    }
    pd_journal_run_end(&consumer->journal, PD_J_DONE, &run);
    if (up_to > 0)
        pd_journal_add(&consumer->journal, PD_J_UP_TO, 0, up_to);
    return pd_journal_commit(&consumer->journal, error);
}

/* Everything but acknowledging one record. */
static void apply_other(struct pd_consumer *consumer, struct pd_out *entry, const struct pd_acks *acks, uint32_t index,
                        size_t reason, uint64_t now_ns)
{
    const pd_ack *ack = &acks->acks[index];
    struct pd_letter letter;
    switch ((enum pd_ack_kind)ack->kind) {
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
        letter = term_letter(acks, index, reason, entry);
        pd_consumer_give_up(consumer, entry, &letter);
        break;
    case PD_ACK_DONE:
        pd_outstanding_remove_up_to(&consumer->out, ack->sequence);
        break;
    }
}

int pd_consumer_ack_all(struct pd_consumer *consumer, const struct pd_acks *acks, uint64_t now_ns, uint32_t *known,
                        pd_error *error)
{
    size_t reason = 0;
    *known = 0;
    int rc = journal_acks(consumer, acks, error);
    if (rc != PD_OK)
        return rc;
    for (uint32_t i = 0; i < acks->count; reason += acks->acks[i++].reason_length) {
        struct pd_out *entry = pd_outstanding_find(&consumer->out, acks->acks[i].sequence);
        if (entry == NULL)
            continue;
        if (acks->acks[i].kind == PD_ACK_DONE && consumer->config.ack_policy != PD_ACK_ALL)
            pd_outstanding_remove(&consumer->out, entry);
        else
            apply_other(consumer, entry, acks, i, reason, now_ns);
        ++*known;
    }
    rc = pd_journal_commit(&consumer->journal, error); /* what a nak gave up */
    pd_consumer_compact(consumer);
    return rc;
}

int pd_consumer_posted(struct pd_consumer *consumer, const struct pd_letter *letters, size_t count, pd_error *error)
{
    for (size_t i = 0; i < count; i++) {
        if (!pd_letters_remove(&consumer->letters, letters[i].sequence, letters[i].epoch))
            continue;
        pd_journal_add(&consumer->journal, PD_J_POSTED, 0, letters[i].sequence);
        pd_outstanding_note(&consumer->out, letters[i].sequence);
    }
    int rc = pd_journal_commit(&consumer->journal, error);
    pd_consumer_compact(consumer);
    return rc;
}

static uint64_t not_before(uint64_t told_ns)
{
    return told_ns == 0 ? 0 : told_ns + PD_ADVISORY_INTERVAL_NS;
}

static uint64_t stalled_due(const struct pd_tellings *tellings)
{
    return tellings->stalled && !tellings->stall_told ? not_before(tellings->stall_told_ns) : UINT64_MAX;
}

static uint64_t exhausted_due(const struct pd_tellings *tellings)
{
    return tellings->exhausted > 0 ? not_before(tellings->exhausted_told_ns) : UINT64_MAX;
}

uint64_t pd_consumer_tell_due(const struct pd_consumer *consumer)
{
    return pd_min64(stalled_due(&consumer->tellings), exhausted_due(&consumer->tellings));
}

unsigned pd_consumer_tell(struct pd_consumer *consumer, uint64_t now_ns, uint64_t *exhausted)
{
    struct pd_tellings *tellings = &consumer->tellings;
    unsigned told = 0;
    *exhausted = 0;
    if (tellings->stalled && pd_consumer_room(consumer) > 0) {
        told |= tellings->stall_told ? PD_TELL_RESUMED : 0;
        tellings->stalled = tellings->stall_told = false;
    }
    if (stalled_due(tellings) <= now_ns) {
        told |= PD_TELL_STALLED;
        tellings->stall_told = true;
        tellings->stall_told_ns = now_ns;
    }
    if (exhausted_due(tellings) <= now_ns) {
        told |= PD_TELL_EXHAUSTED;
        *exhausted = tellings->exhausted;
        tellings->exhausted = 0;
        tellings->exhausted_told_ns = now_ns;
    }
    return told;
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
    while (config->dead_letter_subject[0] == 0 && pd_letters_count(&consumer->letters) > 0) {
        uint64_t sequence = consumer->letters.items[consumer->letters.start].sequence;
        pd_journal_add(&consumer->journal, PD_J_POSTED, 0, sequence);
        pd_letters_remove(&consumer->letters, sequence, UINT64_MAX);
        pd_outstanding_note(&consumer->out, sequence);
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
    uint64_t letter = pd_letters_lowest(&consumer->letters);
    uint64_t ahead = pd_picks_left(&consumer->ahead) > 0 ? consumer->ahead.sequences[consumer->ahead.at] : 0;
    lowest = lowest == 0 || (ahead != 0 && ahead < lowest) ? ahead : lowest;
    lowest = lowest == 0 || (letter != 0 && letter < lowest) ? letter : lowest;
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
