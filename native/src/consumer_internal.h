/* What consumer.c and consumer_open.c share. */
#ifndef PD_CONSUMER_INTERNAL_H
#define PD_CONSUMER_INTERNAL_H

#include "consumer.h"

/* How many matching records there are from `from` to `to`, which are in the log. */
int pd_consumer_count(struct pd_consumer *consumer, const struct pd_log *log, uint64_t from, uint64_t to,
                      struct pd_selection *scratch, uint64_t *count, pd_error *error);

/* Write the journal anew when it has grown enough. A failure costs disk, not state: it is tried again later. */
void pd_consumer_compact(struct pd_consumer *consumer);

#endif
