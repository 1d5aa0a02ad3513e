/* What an operator should know: a bounded ring that Python empties. When it is full the oldest gives way, and the
 * next that is taken says how many did. */
#ifndef PD_ADVISORY_H
#define PD_ADVISORY_H

#include <pthread.h>

#include "base.h"

#define PD_ADVISORIES_MAX 256u

/* At most one of a kind in this time for a consumer, so that what flutters is no flood. */
#define PD_ADVISORY_INTERVAL_NS 10000000000u

/* pd_advisory.kind */
enum pd_advisory_kind {
    PD_ADVISE_STALLED,
    PD_ADVISE_RESUMED,
    PD_ADVISE_EXHAUSTED,
    PD_ADVISE_DEAD_LETTER_FAILED,
    PD_ADVISE_STORAGE_FULL,
    PD_ADVISE_CONSUMER_REMOVED,
    PD_ADVISE_COMPRESSION_FAILED
};

struct pd_advisories {
    pthread_mutex_t lock; /* a leaf */
    pd_advisory *ring;    /* PD_ADVISORIES_MAX */
    uint32_t head;
    uint32_t count;
    uint64_t lost;
    int event_fd; /* the engine's; written when there is one more */
};

int pd_advisories_init(struct pd_advisories *advisories, int event_fd, pd_error *error);
void pd_advisories_fini(struct pd_advisories *advisories);

/* Say something; consumer may be "". Any lock may be held. */
void pd_advise(struct pd_advisories *advisories, enum pd_advisory_kind kind, const char *stream, const char *consumer,
               const char *format, ...) __attribute__((format(printf, 5, 6)));

/* As pd_advisories_take. */
size_t pd_advisories_drain(struct pd_advisories *advisories, pd_advisory *out, size_t capacity);

#endif
