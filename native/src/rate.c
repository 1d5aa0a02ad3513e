/* How much of something comes in a second, averaged over about the last ten seconds, with no timer.
 *
 * What comes is gathered in buckets of a tenth of a second. When a bucket is over it goes into an exponentially
 * weighted average with a time constant of ten seconds; buckets in which nothing came go in with it, all at once,
 * by squaring. So an addition costs two additions nearly always, and nobody wakes up to let a rate fall: whoever
 * reads it lets it fall first.
 */
#include "rate.h"

#define BUCKET_NS 100000000u
#define KEPT      0.990049833749168 /* exp(-0.1 s / 10 s) */
#define LOWEST    0.01              /* a second; below this nothing came */

static double power(double base, uint64_t exponent)
{
    double result = 1.0;
    for (; exponent > 0; exponent >>= 1, base *= base)
        if ((exponent & 1) != 0)
            result *= base;
    return result;
}

static void turn(struct pd_rate *rate, uint64_t bucket)
{
    uint64_t empty = bucket - rate->bucket - 1; /* buckets that nobody saw */
    double kept = power(KEPT, empty);
    for (int i = 0; i < 2; i++) {
        double now = (double)rate->count[i] * (1e9 / BUCKET_NS);
        rate->average[i] = (rate->average[i] * KEPT + now * (1.0 - KEPT)) * kept;
        rate->average[i] = rate->average[i] < LOWEST ? 0.0 : rate->average[i];
        rate->count[i] = 0;
    }
    rate->bucket = bucket;
}

void pd_rate_add(struct pd_rate *rate, uint64_t now_ns, uint64_t first, uint64_t second)
{
    uint64_t bucket = now_ns / BUCKET_NS;
    if (bucket > rate->bucket)
        turn(rate, bucket);
    rate->count[0] += first;
    rate->count[1] += second;
}

void pd_rate_read(struct pd_rate *rate, uint64_t now_ns, double average[2])
{
    pd_rate_add(rate, now_ns, 0, 0);
    average[0] = rate->average[0];
    average[1] = rate->average[1];
}
