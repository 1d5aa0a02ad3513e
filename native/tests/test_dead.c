/* Dead letters while everything goes on: two streams, each the other's grave, given up by several threads, and one of
 * them changed meanwhile. Each record dies once, and no lock is taken in the wrong order. */
#include "engine.h"

#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

enum { RECORDS = 600, BATCH = 20 };

static pd_engine *engine;
static atomic_bool settled;

static const char *const streams[] = {"one", "two"};

static pd_consumer_config config_of(int number)
{
    pd_consumer_config config = {
        .start_sequence = 1, .ack_wait_ns = UINT64_MAX / 4, .max_deliver = 1, .max_ack_pending = 64};
    snprintf(config.dead_letter_subject, sizeof config.dead_letter_subject, "%s.dead", streams[1 - number]);
    return config;
}

static void *publish(void *argument)
{
    int number = (int)(intptr_t)argument;
    char subject[16];
    uint8_t batch[8192];
    pd_error error;
    snprintf(subject, sizeof subject, "%s.live", streams[number]);
    for (uint32_t i = 0; i < RECORDS; i += BATCH) {
        size_t length = make_numbered(batch, subject, "id", i, BATCH, 20);
        while (pd_append(engine, "", batch, length, 1, UINT64_MAX, i, &error) == PD_LIMIT_REACHED)
            poll(NULL, 0, 1);
    }
    return NULL;
}

/* Refuses everything: by term with a reason, and by nak, which is one delivery too many. */
static void *refuse(void *argument)
{
    const char *stream = streams[(intptr_t)argument];
    pd_error error;
    while (!atomic_load(&settled)) {
        pd_ack acks[32] = {0};
        uint8_t *block;
        size_t length;
        uint32_t records;
        uint32_t known;
        uint32_t offset = 0;
        CHECK_EQUAL(pd_consumer_fetch(engine, stream, "c", 32, 1 << 20, &block, &length, &records, &error), PD_OK);
        if (records == 0) {
            poll(NULL, 0, 1);
            continue;
        }
        memcpy(&offset, block + 4, sizeof offset);
        for (uint32_t i = 0; i < records; i++) {
            uint32_t size;
            memcpy(&acks[i].sequence, block + offset, sizeof acks[i].sequence);
            memcpy(&size, block + offset + 24, sizeof size);
            acks[i].kind = i % 2 == 0 ? PD_ACK_TERM : PD_ACK_NAK;
            acks[i].reason_length = i == 0 ? 3 : 0;
            offset += 24 + size;
        }
        CHECK_EQUAL(pd_consumer_ack(engine, stream, "c", acks, records, (const uint8_t *)"why", 3, &known, &error),
                    PD_OK);
        CHECK_EQUAL(known, records);
        pd_block_free(block);
    }
    return NULL;
}

/* Asks, empties the rings, and takes the second stream's subject for letters away for moments. */
static void *disturb(void *argument)
{
    const pd_stream_config config = {.duplicate_window_ns = UINT64_MAX / 2, .duplicate_limit = 100000};
    const char *const all[] = {"two.live", "two.dead"};
    (void)argument;
    for (int round = 0; !atomic_load(&settled); round++) {
        pd_completion done[64];
        pd_advisory told[16];
        pd_consumer_info info;
        pd_error error;
        pd_completions_take(engine, done, 64);
        pd_advisories_take(engine, told, 16);
        pd_consumer_info_get(engine, "one", "c", &info, &error);
        CHECK_EQUAL(pd_stream_open(engine, "two", all, round < 5 ? 1 : 2, &config, &error), PD_OK);
        poll(NULL, 0, round < 5 ? 20 : 2);
    }
    return NULL;
}

static void wait_until_settled(void)
{
    pd_consumer_info info[2];
    pd_error error;
    for (int tries = 0; tries < 3000; tries++) {
        bool done = true;
        for (int i = 0; i < 2; i++) {
            CHECK_EQUAL(pd_consumer_info_get(engine, streams[i], "c", &info[i], &error), PD_OK);
            done = done && info[i].exhausted >= RECORDS && info[i].ack_floor >= RECORDS;
        }
        if (done)
            break;
        poll(NULL, 0, 5);
    }
    CHECK(info[0].ack_floor >= RECORDS && info[1].ack_floor >= RECORDS);
}

static void check_letters(int number)
{
    uint8_t *block;
    size_t length;
    uint32_t records;
    pd_error error;
    char pattern[16];
    snprintf(pattern, sizeof pattern, "%s.dead", streams[number]);
    CHECK_EQUAL(pd_stream_read(engine, streams[number], 0, pattern, 16000, 1 << 26, &block, &length, &records, &error),
                PD_OK);
    CHECK_EQUAL(records, RECORDS);
    pd_block_free(block);
}

void test_dead(void)
{
    static const pd_options options = {1 << 20, 1 << 20, 4096, 1 << 20, 4, 4, 4, 0, NULL};
    const pd_stream_config config = {.duplicate_window_ns = UINT64_MAX / 2, .duplicate_limit = 100000};
    pthread_t threads[5];
    pd_error error;
    int event_fd;
    atomic_store(&settled, false);
    CHECK_EQUAL(pd_engine_open(fresh_directory(0), &options, &engine, &event_fd, &error), PD_OK);
    for (int i = 0; i < 2; i++) {
        char live[16];
        char dead[16];
        snprintf(live, sizeof live, "%s.live", streams[i]);
        snprintf(dead, sizeof dead, "%s.dead", streams[i]);
        const char *const subjects[] = {live, dead};
        CHECK_EQUAL(pd_stream_open(engine, streams[i], subjects, 2, &config, &error), PD_OK);
        pd_consumer_config consumer = config_of(i);
        CHECK_EQUAL(pd_consumer_open(engine, streams[i], "c", live, &consumer, &error), PD_OK);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&threads[i], NULL, publish, (void *)(intptr_t)i) == 0);
        CHECK(pthread_create(&threads[2 + i], NULL, refuse, (void *)(intptr_t)i) == 0);
    }
    CHECK(pthread_create(&threads[4], NULL, disturb, NULL) == 0);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    wait_until_settled();
    atomic_store(&settled, true);
    for (int i = 2; i < 5; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 2; i++)
        check_letters(i);
    pd_engine_stop(engine);
    pd_engine_free(engine);
}
