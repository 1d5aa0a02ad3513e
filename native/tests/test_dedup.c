/* De-duplication: its bounds, and random use against a plain list. */
#include "check.h"
#include "dedup.h"
#include "streams.h"

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

/* As if the log were so long that opening did not wait for its ids. */
static void forget(struct stream_rig *rig)
{
    struct pd_stream *stream = pd_engine_stream(rig->engine, "s", &rig->error);
    pthread_mutex_lock(&stream->lock);
    struct pd_dedup *dedup = &stream->dedup;
    uint64_t window_ns = dedup->window_ns;
    size_t limit = dedup->limit;
    pd_dedup_fini(dedup);
    pd_dedup_init(dedup, window_ns, limit);
    stream->unknown_segments = stream->log.count;
    pthread_mutex_unlock(&stream->lock);
    pd_stream_unref(stream);
}

/* Ids that are read back late are known to whoever asks, also those of records that go meanwhile. */
static void ids_are_known_before_they_matter(void)
{
    struct stream_rig rig;
    pd_stream_config config = {.duplicate_window_ns = UINT64_MAX / 2, .duplicate_limit = 1000};
    const char *directory = fresh_directory(0);
    uint64_t removed;
    rig_start(&rig, directory, &config);
    for (uint32_t first = 1; first <= 200; first += 20)
        CHECK_EQUAL(rig_append(&rig, "s", "id", first, 20, 100).appended, 20);
    rig_stop(&rig);
    rig_start(&rig, directory, &config);
    forget(&rig);
    CHECK_EQUAL(rig_append(&rig, "s", "", 1, 1, 10).appended, 1); /* needs to know nothing */
    CHECK_EQUAL(rig_append(&rig, "s", "id", 1, 20, 100).duplicates, 20);
    forget(&rig);
    CHECK_EQUAL(pd_stream_purge(rig.engine, "s", ">", 101, 0, &removed, &rig.error), PD_OK);
    CHECK_EQUAL(rig_append(&rig, "s", "id", 81, 20, 100).duplicates, 20);
    forget(&rig);
    config.max_bytes = 1;
    rig_configure(&rig, &config);
    pd_stream_info info;
    do
        rig_info(&rig, &info);
    while (info.first_sequence <= 120); /* the timer's thread drops all but the last segment */
    CHECK_EQUAL(rig_append(&rig, "s", "id", 101, 20, 100).duplicates, 20);
    rig_stop(&rig);
}

/* Damage that is found late refuses what it leaves unknown, and nothing else. */
static void damage_refuses_ids(void)
{
    struct stream_rig rig;
    const pd_stream_config config = {.duplicate_window_ns = UINT64_MAX / 2, .duplicate_limit = 1000};
    const char *directory = fresh_directory(0);
    char path[512];
    rig_start(&rig, directory, &config);
    for (uint32_t first = 1; first <= 200; first += 20)
        rig_append(&rig, "s", "id", first, 20, 100);
    forget(&rig);
    snprintf(path, sizeof path, "%s/s/log/%020d.seg", directory, 1);
    flip_byte(path, 4, 0xff);
    CHECK_EQUAL(rig_append(&rig, "s", "id", 1, 20, 100).status, PD_CORRUPTED);
    CHECK_EQUAL(rig_append(&rig, "s", "", 1, 1, 10).appended, 1);
    rig_stop(&rig);
}

void test_dedup(void)
{
    ids_are_known_before_they_matter();
    damage_refuses_ids();
    pairs_differ();
    bounds();
    against_a_list();
}
