/* De-duplication: its bounds, and random use against a plain list. */
#include "check.h"
#include "dedup.h"

#include <stdlib.h>

static struct pd_hash number_hash(uint32_t number)
{
    static const struct pd_hash_key key = {1, 2};
    struct pd_span span = {(const uint8_t *)&number, sizeof number};
    return pd_hash_pair(&key, span, span);
}

/* The reference vector of SipHash-2-4-128: key 00..0f, message 00..0e — made of a pair with its middle byte. */
static void pairs_differ(void)
{
    struct pd_hash_key key = {3, 4};
    struct pd_span ab = {(const uint8_t *)"ab", 2};
    struct pd_span a = {(const uint8_t *)"a", 1};
    struct pd_span c = {(const uint8_t *)"c", 1};
    struct pd_span bc = {(const uint8_t *)"bc", 2};
    struct pd_hash one = pd_hash_pair(&key, ab, c);
    struct pd_hash two = pd_hash_pair(&key, a, bc);
    CHECK(one.low != two.low && one.high != two.high && one.low != one.high);
    struct pd_hash again = pd_hash_pair(&key, ab, c);
    CHECK(one.low == again.low && one.high == again.high);
}

static void bounds(void)
{
    struct pd_dedup dedup;
    pd_dedup_init(&dedup, 100, 10);
    for (uint32_t i = 0; i < 50; i++) {
        CHECK_EQUAL(pd_dedup_add(&dedup, number_hash(i), 1000), 1);
        CHECK_EQUAL(pd_dedup_add(&dedup, number_hash(i), 1000), 0);
        pd_dedup_trim(&dedup, 1000);
        CHECK(dedup.count <= 10);
    }
    CHECK(!pd_dedup_has(&dedup, number_hash(39)));
    CHECK(pd_dedup_has(&dedup, number_hash(40)));
    pd_dedup_trim(&dedup, 1100);
    CHECK_EQUAL(dedup.count, 10);
    pd_dedup_trim(&dedup, 1101);
    CHECK_EQUAL(dedup.count, 0);
    pd_dedup_fini(&dedup);
    pd_dedup_init(&dedup, 0, 10);
    CHECK_EQUAL(pd_dedup_add(&dedup, number_hash(1), 0), 1);
    CHECK_EQUAL(pd_dedup_add(&dedup, number_hash(1), 0), 1);
    pd_dedup_fini(&dedup);
}

static void against_a_list(void)
{
    enum { NUMBERS = 400 };
    struct pd_dedup dedup;
    uint32_t list[4096];
    size_t count = 0;
    pd_dedup_init(&dedup, UINT64_MAX, 150);
    for (int step = 0; step < 30000; step++) {
        uint32_t number = random_below(NUMBERS);
        bool known = false;
        for (size_t i = 0; i < count; i++)
            known = known || list[i] == number;
        CHECK_EQUAL(pd_dedup_has(&dedup, number_hash(number)), known);
        uint32_t what = random_below(10);
        if (what < 6) {
            CHECK_EQUAL(pd_dedup_add(&dedup, number_hash(number), 1), !known);
            if (!known)
                list[count++] = number;
        } else if (what < 7) {
            CHECK_EQUAL(pd_dedup_add_oldest(&dedup, number_hash(number), 1), !known);
            if (!known) {
                memmove(list + 1, list, count * sizeof *list);
                list[0] = number;
                count++;
            }
        } else if (what < 8) {
            size_t undo = random_below(4);
            pd_dedup_undo(&dedup, undo);
            count -= undo < count ? undo : count;
        } else {
            pd_dedup_trim(&dedup, 1);
            size_t over = count > 150 ? count - 150 : 0;
            memmove(list, list + over, (count - over) * sizeof *list);
            count -= over;
        }
        CHECK_EQUAL(dedup.count, count);
    }
    pd_dedup_fini(&dedup);
}

void test_dedup(void)
{
    pairs_differ();
    bounds();
    against_a_list();
}
