/* Batches: what is valid passes, and nothing else does. */
#include "check.h"

#include <stdlib.h>

static const struct pd_batch_limits limits = {1 << 20, 1000};

static size_t sample(uint8_t *out)
{
    const struct item items[] = {
        {"alerts.ztf", "one", "payload", 7},
        {"alerts.lsst", NULL, "", 0},
        {"alerts.ztf", "three", "0123456789abcdef", 16},
    };
    return make_batch(out, items, 3);
}

static int check(const uint8_t *batch, size_t length)
{
    struct pd_batch_header header;
    uint8_t *exact = malloc(length + 1); /* so that a read behind the end is seen; odd, so alignment is not taken */
    memcpy(exact + 1, batch, length);
    int rc = pd_batch_check(exact + 1, length, &limits, &header, NULL);
    if (rc == PD_OK) {
        struct pd_span *subjects = calloc(header.subject_count, sizeof *subjects);
        pd_batch_subjects(exact + 1, &header, subjects);
        free(subjects);
    }
    free(exact);
    return rc;
}

static void every_mutation_is_refused(void)
{
    uint8_t batch[1024];
    size_t length = sample(batch);
    CHECK_EQUAL(check(batch, length), PD_OK);
    for (size_t at = 0; at < length; at++) {
        bool stamped = at >= 8 && at < 36;
        for (int mask = 1; mask < 256; mask++) {
            batch[at] ^= (uint8_t)mask;
            CHECK_EQUAL(check(batch, length) == PD_OK, stamped);
            batch[at] ^= (uint8_t)mask;
        }
    }
    for (size_t shorter = 0; shorter < length; shorter++)
        CHECK(check(batch, shorter) != PD_OK);
}

/* With a checksum that is right, a mutation of a length, an index or padding must still be refused, and one of
 * a payload is another valid batch. */
static void every_sealed_mutation_is_judged(void)
{
    uint8_t batch[1024];
    size_t length = sample(batch);
    size_t refused = 0;
    for (size_t at = PD_BATCH_BODY; at < length; at++)
        for (int mask = 1; mask < 256; mask += 2) {
            batch[at] ^= (uint8_t)mask;
            seal_batch(batch);
            refused += check(batch, length) != PD_OK;
            batch[at] ^= (uint8_t)mask;
        }
    CHECK(refused > 1000);
    for (size_t at = PD_BATCH_BODY; at < PD_BATCH_HEADER - 8; at++) { /* flags, counts, offset; not the ids */
        if (at >= 48 && at < 52)
            continue;
        batch[at] ^= 1;
        seal_batch(batch);
        CHECK(check(batch, length) != PD_OK);
        batch[at] ^= 1;
    }
}

static void each_rule_has_its_status(void)
{
    uint8_t batch[4096];
    struct pd_batch_header header;
    static const char large[1001];
    size_t length = sample(batch);
    batch[3] = '2';
    CHECK_EQUAL(check(batch, length), PD_BAD_VERSION);
    batch[3] = '1';
    batch[length - 1] ^= 1;
    CHECK_EQUAL(check(batch, length), PD_BAD_CHECKSUM);
    struct pd_batch_limits tiny = {64, 1000};
    length = sample(batch);
    CHECK_EQUAL(pd_batch_check(batch, length, &tiny, &header, NULL), PD_TOO_LARGE);
    length = make_batch(batch, (struct item[]){{"a", NULL, large, 1000}}, 1);
    CHECK_EQUAL(check(batch, length), PD_OK);
    length = make_batch(batch, (struct item[]){{"a", NULL, large, 1001}}, 1);
    CHECK_EQUAL(check(batch, length), PD_TOO_LARGE);
    const char *wrong[] = {"a.*", "a.>", "a..b", ".a", "a.", "a b", "a\x7f", "a*"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        length = make_batch(batch, (struct item[]){{wrong[i], NULL, "", 0}}, 1);
        CHECK_EQUAL(check(batch, length), PD_INVALID);
    }
}

static void padding_is_zero(void)
{
    uint8_t batch[1024];
    size_t length = sample(batch);
    const size_t table_end = 64 + 1 + 10 + 1 + 11;            /* of the two subjects */
    const size_t record_end = pd_align8(table_end) + 24 + 10; /* of the first record: its id and payload have 10 */
    size_t padding[] = {table_end, record_end, pd_align8(record_end) - 1};
    for (size_t i = 0; i < sizeof padding / sizeof padding[0]; i++) {
        batch[padding[i]] = 1;
        seal_batch(batch);
        CHECK_EQUAL(check(batch, length), PD_INVALID);
        batch[padding[i]] = 0;
        seal_batch(batch);
        CHECK_EQUAL(check(batch, length), PD_OK);
    }
}

static void rebuilding_keeps_the_others(void)
{
    uint8_t batch[1024];
    uint8_t rebuilt[1024];
    struct pd_batch_header header;
    struct pd_batch_header after;
    size_t length = sample(batch);
    CHECK_EQUAL(pd_batch_check(batch, length, &limits, &header, NULL), PD_OK);
    for (uint8_t without = 0; without < 7; without++) {
        pd_batch_rebuild(batch, &header, &without, rebuilt, &after);
        CHECK_EQUAL(check(rebuilt, after.length), PD_OK);
        CHECK_EQUAL(after.record_count, 3 - __builtin_popcount(without));
        CHECK(memcmp(&after, rebuilt, sizeof after) == 0);
    }
    uint8_t first = 1;
    uint32_t gone;
    pd_batch_rebuild(batch, &header, &first, rebuilt, &after);
    memcpy(&gone, batch + header.records_offset, sizeof gone);
    CHECK_EQUAL(after.length, length - gone);
    size_t from = after.records_offset;
    CHECK(memcmp(rebuilt + from, batch + from + gone, after.length - from) == 0);
}

static void a_stamp_is_checked(void)
{
    uint8_t batch[1024];
    struct pd_batch_header header;
    size_t length = sample(batch);
    memcpy(&header, batch, sizeof header);
    header.base_sequence = 77;
    pd_batch_stamp(&header);
    memcpy(batch, &header, sizeof header);
    CHECK(pd_batch_stored(batch, length, true, &header));
    CHECK(!pd_batch_stored(batch, length - 8, true, &header));
    for (size_t at = 0; at < length; at++) {
        batch[at] ^= 0x10;
        CHECK(!pd_batch_stored(batch, length, true, &header));
        batch[at] ^= 0x10;
    }
}

void test_batch(void)
{
    every_mutation_is_refused();
    every_sealed_mutation_is_judged();
    each_rule_has_its_status();
    padding_is_zero();
    rebuilding_keeps_the_others();
    a_stamp_is_checked();
}
