/* What the removal of records means for a consumer: they are neither ahead of it nor out any more. The journal is
 * not told; opening asks the log what it keeps. */
#include "consumer.h"

#include "consumer_internal.h"
#include "erasure.h"
#include "subject.h"

/* Drop those from `from` to `to`. */
static void forget_ahead(struct pd_picks *ahead, uint64_t from, uint64_t to)
{
    size_t left = pd_picks_left(ahead);
    if (left == 0 || ahead->sequences[ahead->at] > to || ahead->sequences[ahead->count - 1] < from)
        return;
    size_t kept = ahead->at;
    for (size_t i = ahead->at; i < ahead->count; i++)
        if (ahead->sequences[i] < from || ahead->sequences[i] > to)
            ahead->sequences[kept++] = ahead->sequences[i];
    ahead->count = kept;
}

void pd_consumer_forget(struct pd_consumer *consumer, const struct pd_log *log, uint64_t from, uint64_t to,
                        struct pd_selection *scratch)
{
    struct pd_outstanding *out = &consumer->out;
    uint64_t gone = 0;
    uint64_t ahead = pd_max64(from, consumer->next_sequence);
    forget_ahead(&consumer->ahead, from, to);
    if (out->live > 0 && pd_outstanding_lowest(out) <= to)
        for (size_t i = out->end; i > out->start; i--) { /* from the end: removing gives places at both ends back */
            struct pd_out *entry = &out->entries[i - 1];
            if (entry->sequence >= from && entry->sequence <= to && entry->state != PD_OUT_GONE)
                pd_outstanding_remove(out, entry);
            if (entry->sequence < from || out->live == 0)
                break;
        }
    if (pd_consumer_count(consumer, log, ahead, to, scratch, &gone, NULL) == PD_OK)
        consumer->pending -= pd_min64(gone, consumer->pending);
}

void pd_consumer_forget_one(struct pd_consumer *consumer, uint64_t sequence, struct pd_span subject)
{
    struct pd_out *entry = pd_outstanding_find(&consumer->out, sequence);
    if (entry != NULL)
        pd_outstanding_remove(&consumer->out, entry);
    forget_ahead(&consumer->ahead, sequence, sequence);
    if (sequence >= consumer->next_sequence && consumer->pending > 0 &&
        pd_subject_matches(consumer->filter, consumer->filter_length, (const char *)subject.data, subject.length))
        consumer->pending--;
}

void pd_consumer_forget_erased(struct pd_consumer *consumer, const struct pd_log *log)
{
    struct pd_outstanding *out = &consumer->out;
    struct pd_picks *ahead = &consumer->ahead;
    size_t kept = ahead->at;
    for (size_t i = ahead->at; i < ahead->count; i++)
        if (pd_log_keeps(log, ahead->sequences[i]))
            ahead->sequences[kept++] = ahead->sequences[i];
    ahead->count = kept;
    for (size_t i = out->end; i > out->start; i--) {
        struct pd_out *entry = &out->entries[i - 1];
        if (entry->state != PD_OUT_GONE && !pd_log_keeps(log, entry->sequence))
            pd_outstanding_remove(out, entry);
    }
}

bool pd_consumer_is_done(struct pd_consumer *consumer, uint64_t sequence)
{
    const struct pd_picks *ahead = &consumer->ahead;
    size_t low = ahead->at;
    size_t high = ahead->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (ahead->sequences[middle] < sequence)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < ahead->count && ahead->sequences[low] == sequence)
        return false;
    for (size_t i = consumer->letters.start; i < consumer->letters.end; i++)
        if (consumer->letters.items[i].sequence == sequence)
            return false;
    return sequence < consumer->next_sequence && pd_outstanding_find(&consumer->out, sequence) == NULL;
}
