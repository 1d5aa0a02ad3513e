/* Rates: what a steady flow, a burst and silence read as. */
#include "rate.h"

#include "check.h"

static const uint64_t second = 1000000000u;

static bool near(double value, double wanted)
{
    return value > wanted * 0.98 && value < wanted * 1.02;
}

static void a_steady_flow_is_its_own_rate(void)
{
    struct pd_rate rate = {0};
    double average[2];
    for (uint64_t i = 0; i < 6000; i++) /* one minute, a hundred times a second */
        pd_rate_add(&rate, 5 * second + i * second / 100, 10, 1520);
    pd_rate_read(&rate, 65 * second, average);
    CHECK(near(average[0], 1000 * 0.9975)); /* 1 - exp(-6) of it */
    CHECK(near(average[1], 152000 * 0.9975));
}

static void silence_lets_it_fall_without_a_timer(void)
{
    struct pd_rate rate = {0};
    double average[2];
    for (uint64_t i = 0; i < 6000; i++)
        pd_rate_add(&rate, i * second / 100, 10, 0);
    pd_rate_read(&rate, 70 * second, average);
    CHECK(near(average[0], 1000 * 0.3679)); /* exp(-1) after ten seconds */
    CHECK(average[1] == 0.0);
    pd_rate_read(&rate, 3600 * second, average);
    CHECK(average[0] == 0.0);
    pd_rate_read(&rate, 3600 * second, average); /* reading changes nothing */
    CHECK(average[0] == 0.0);
}

static void a_burst_counts_once(void)
{
    struct pd_rate rate = {0};
    double average[2];
    pd_rate_add(&rate, 100 * second, 10000, 1);
    pd_rate_read(&rate, 100 * second, average);
    CHECK(average[0] == 0.0); /* its tenth of a second is not over */
    pd_rate_read(&rate, 100 * second + second / 10, average);
    CHECK(near(average[0], 1000 * 0.995)); /* spread over ten seconds */
}

void test_rate(void)
{
    a_steady_flow_is_its_own_rate();
    silence_lets_it_fall_without_a_timer();
    a_burst_counts_once();
}
