/* The bitmap against an array of bytes. */
#include "bitmap.h"

#include "check.h"

enum { SIZE = 500 };

static void against_bytes(void)
{
    struct pd_bitmap bitmap = {0};
    uint8_t model[SIZE] = {0};
    for (int round = 0; round < 300; round++) {
        uint64_t from = random_below(SIZE);
        uint64_t end = from + random_below((uint32_t)pd_min64(SIZE - from, 1 + round % 90) + 1);
        uint64_t fresh = 0;
        uint64_t inside = 0;
        CHECK(pd_bitmap_reserve(&bitmap, end));
        for (uint64_t i = from; i < end; i++)
            fresh += model[i] == 0, model[i] = 1;
        CHECK_EQUAL(pd_bitmap_set(&bitmap, from, end), fresh);
        from = random_below(SIZE);
        end = from + random_below((uint32_t)(SIZE - from) + 1);
        uint64_t first[2] = {end, end};
        for (uint64_t i = end; i-- > from;)
            first[model[i]] = i, inside += model[i];
        CHECK_EQUAL(pd_bitmap_count(&bitmap, from, end), inside);
        CHECK_EQUAL(pd_bitmap_next(&bitmap, from, end, true), first[1]);
        CHECK_EQUAL(pd_bitmap_next(&bitmap, from, end, false), first[0]);
    }
    uint64_t all = 0;
    for (int i = 0; i < SIZE; i++)
        all += model[i];
    CHECK_EQUAL(bitmap.count, all);
    pd_bitmap_fini(&bitmap);
}

void test_bitmap(void)
{
    for (int i = 0; i < 20; i++)
        against_bytes();
}
