/* What consumer.c and consumer_open.c share. */
#ifndef PD_CONSUMER_INTERNAL_H
#define PD_CONSUMER_INTERNAL_H

#include "consumer.h"

/* How many matching records there are from `from` to `to`, which are in the log. */
int pd_consumer_count(struct pd_consumer *consumer, const struct pd_log *log, uint64_t from, uint64_t to,
                      struct pd_selection *scratch, uint64_t *count, pd_error *error);

/* Something that was out comes back: to be delivered again, or given up. The journal's change is open. */
void pd_consumer_give_back(struct pd_consumer *consumer, struct pd_out *entry);

/* The two halves of giving up a record that is out: the journal's (its change is open), and the state's. */
void pd_consumer_journal_give_up(struct pd_consumer *consumer, const struct pd_letter *letter);
void pd_consumer_give_up(struct pd_consumer *consumer, struct pd_out *entry, struct pd_letter *letter);

/* A letter's journal records, of one of the kinds that have letters. */
void pd_journal_letter(struct pd_journal *journal, const struct pd_letter *letter, enum pd_journal_kind kind);

/* How long a record that goes out for the n-th time may stay out. */
static inline uint64_t pd_consumer_patience(const struct pd_consumer *consumer, uint32_t deliveries)
{
    uint32_t steps = consumer->config.backoff_count;
    if (steps == 0)
        return consumer->config.ack_wait_ns;
    return consumer->config.backoff_ns[deliveries <= steps ? deliveries - 1 : steps - 1];
}

/* The filter as a span. */
struct pd_span pd_consumer_filter(const struct pd_consumer *consumer);

/* Write the journal anew when it has grown enough. A failure costs disk, not state: it is tried again later. */
void pd_consumer_compact(struct pd_consumer *consumer);

#endif
