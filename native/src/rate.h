/* How much of something comes in a second, averaged over about the last ten seconds, with no timer. */
#ifndef PD_RATE_H
#define PD_RATE_H

#include "base.h"

struct pd_rate {
    uint64_t bucket; /* number of the tenth of a second that is being filled */
    uint64_t count[2];
    double average[2]; /* per second, up to before that bucket */
};

/* So much came at now_ns (of pd_mono_ns): two kinds are counted side by side. */
void pd_rate_add(struct pd_rate *rate, uint64_t now_ns, uint64_t first, uint64_t second);

/* What it is at now_ns. */
void pd_rate_read(struct pd_rate *rate, uint64_t now_ns, double average[2]);

#endif
