/* What live subscribers get: frames out of a ring that goes on without those who are slow. And what is told of it. */
#include "check.h"
#include "engine.h"
#include "live_ring.h"
#include "notice.h"

static struct pd_span span(const char *text)
{
    return (struct pd_span){(const uint8_t *)text, (uint32_t)strlen(text)};
}

static bool put(struct pd_live_ring *ring, const char *subject, const char *payload)
{
    return pd_live_ring_put(ring, span(subject), span(payload));
}

static void frames(void)
{
    struct pd_live_ring ring;
    uint8_t out[256];
    CHECK(pd_live_ring_init(&ring, 100));
    struct pd_live_place tcp = ring.head;
    struct pd_live_place ipc = ring.head;
    CHECK(put(&ring, "a.b", "one"));
    CHECK(put(&ring, "c", ""));
    struct pd_live_taken taken = pd_live_ring_take(&ring, &tcp, false, out, sizeof out);
    CHECK(taken.length == 25 && taken.records == 2 && taken.missed == 0);
    CHECK(memcmp(out, "\0\0\0\0\0\0\0\007a.b\none\0\0\0\0\0\0\0\002c\n", 25) == 0);
    taken = pd_live_ring_take(&ring, &ipc, true, out, sizeof out);
    CHECK(taken.length == 27 && memcmp(out, "\1\0\0\0\0\0\0\0\007a.b\none\1\0\0\0\0\0\0\0\002c\n", 27) == 0);
    CHECK_EQUAL(pd_live_ring_take(&ring, &ipc, true, out, sizeof out).length, 0);
    CHECK(put(&ring, "a", "12345678"));
    taken = pd_live_ring_take(&ring, &ipc, true, out, 18);
    CHECK(taken.length == 0 && taken.needed == 19);
    CHECK_EQUAL(pd_live_ring_take(&ring, &ipc, true, out, 19).length, 19);
    pd_live_ring_fini(&ring);
}

static void overtaking(void)
{
    struct pd_live_ring ring;
    uint8_t out[256];
    char payload[16];
    CHECK(pd_live_ring_init(&ring, 100)); /* five frames of 20 bytes, the sixth and so on around the end */
    struct pd_live_place slow = ring.head;
    struct pd_live_place quick = ring.head;
    uint64_t missed = 0;
    uint64_t records = 0;
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(payload, sizeof payload, "%09u", i);
        CHECK(put(&ring, "ab", payload));
        CHECK_EQUAL(pd_live_ring_take(&ring, &quick, false, out, sizeof out).records, 1);
        CHECK(memcmp(out + 11, payload, 9) == 0);
        if (i % 100 != 99)
            continue;
        struct pd_live_taken taken = pd_live_ring_take(&ring, &slow, false, out, sizeof out);
        CHECK(memcmp(out + taken.length - 9, payload, 9) == 0);
        missed += taken.missed;
        records += taken.records;
    }
    CHECK_EQUAL(records, 50);
    CHECK_EQUAL(records + missed, 1000);
    CHECK_EQUAL(quick.record, 1000);
    char large[93] = {0};
    memset(large, 'x', 92);
    CHECK(!put(&ring, "a", large));
    CHECK_EQUAL(pd_live_ring_take(&ring, &slow, false, out, sizeof out).length, 0);
    large[90] = 0;
    CHECK(put(&ring, "a", large));
    CHECK_EQUAL(pd_live_ring_take(&ring, &slow, false, out, sizeof out).length, 100);
    pd_live_ring_fini(&ring);
}

static unsigned told(pd_engine *engine)
{
    pd_completion completions[4];
    size_t count = pd_completions_take(engine, completions, 4);
    CHECK(count == 0 || completions[0].token == 7);
    return (unsigned)count;
}

static void notices(void)
{
    static const pd_options options = {4096, 4096, 4096, 4096, 1, 1, 1, 0, NULL};
    static pd_socket_statistics counts;
    struct pd_notice notice = {0};
    pd_engine *engine;
    pd_error error;
    int event_fd;
    CHECK_EQUAL(pd_engine_open(fresh_directory(0), &options, &engine, &event_fd, &error), PD_OK);
    pd_notice_init(&notice, engine);
    CHECK_EQUAL(pd_notice_watch(&notice, 7, &error), PD_OK);
    CHECK_EQUAL(pd_notice_watch(&notice, 8, &error), PD_EXISTS);
    CHECK_EQUAL(told(engine), 0);
    pd_notice_refuse(&notice, PD_INVALID, 2, "bad");
    pd_notice_refuse(&notice, PD_STREAM_FULL, 3, "full");
    CHECK_EQUAL(told(engine), 1);
    CHECK_EQUAL(pd_notice_watch(&notice, 7, &error), PD_OK);
    CHECK_EQUAL(told(engine), 1); /* of the second, at once */
    CHECK_EQUAL(pd_notice_watch(&notice, 7, &error), PD_OK);
    CHECK_EQUAL(told(engine), 0);
    pd_notice_tell(&notice);
    CHECK_EQUAL(told(engine), 1);
    pd_notice_refuse(&notice, PD_NOT_CAPTURED, 1, "not captured");
    pd_notice_refuse(&notice, PD_TOO_LARGE, 1, "large");
    pd_notice_refuse(&notice, PD_IO_ERROR, 1, "broken");
    pd_notice_read(&notice, &counts);
    CHECK(counts.push_invalid == 2 && counts.push_full == 3 && counts.push_not_captured == 1);
    CHECK(counts.push_too_large == 1 && counts.push_failed == 1 && strcmp(counts.push_refusal, "broken") == 0);
    pd_socket_statistics none;
    pd_broker_statistics(engine, &none);
    CHECK_EQUAL(none.push_invalid, 0);
    CHECK_EQUAL(pd_broker_watch(engine, 7, &error), PD_INVALID);
    pd_engine_stop(engine);
    pd_notice_fini(&notice);
    pd_engine_free(engine);
}

void test_live(void)
{
    frames();
    overtaking();
    notices();
}
