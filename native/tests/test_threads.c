/* The engine under several threads at once: for the thread sanitizer, and for what must hold whatever happens. */
#include "engine.h"

#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

enum { PRODUCERS = 3, BATCHES = 300, BATCH = 10 };

static pd_engine *engine;
static atomic_int producing;
static atomic_uint completed;
static atomic_uint consumed;

/* Appends to a stream of its own or the shared one; the payload-less records carry their order in the id. */
static void *produce(void *argument)
{
    int number = (int)(intptr_t)argument;
    static const char *const streams[] = {"one", "two"};
    char prefix[8];
    uint8_t batch[8192];
    pd_error error;
    snprintf(prefix, sizeof prefix, "p%d", number);
    for (uint32_t i = 0; i < BATCHES; i++) {
        const char *stream = streams[(i + (uint32_t)number) % 2];
        size_t length = make_numbered(batch, stream, prefix, i * BATCH, BATCH, 20);
        int rc;
        do {
            rc = pd_append(engine, i % 2 == 0 ? stream : "", batch, length, i % 3, UINT64_MAX, i, &error);
        } while (rc == PD_LIMIT_REACHED && poll(NULL, 0, 1) == 0);
        CHECK_EQUAL(rc, PD_OK);
    }
    atomic_fetch_sub(&producing, 1);
    return NULL;
}

static void *drain(void *argument)
{
    pd_completion done[64];
    int event_fd = (int)(intptr_t)argument;
    while (atomic_load(&completed) < PRODUCERS * BATCHES) {
        struct pollfd wait = {.fd = event_fd, .events = POLLIN};
        poll(&wait, 1, 100);
        size_t count = pd_completions_take(engine, done, 64);
        for (size_t i = 0; i < count; i++)
            CHECK(done[i].status == PD_OK && done[i].appended == BATCH && done[i].duplicates == 0);
        atomic_fetch_add(&completed, (unsigned)count);
    }
    return NULL;
}

/* The sequences of a delivery block. */
static uint32_t block_sequences(const uint8_t *block, pd_ack *acks, uint32_t records)
{
    uint32_t offset;
    memcpy(&offset, block + 4, sizeof offset);
    for (uint32_t i = 0; i < records; i++) {
        uint32_t length;
        memcpy(&acks[i].sequence, block + offset, sizeof acks[i].sequence);
        memcpy(&length, block + offset + 24, sizeof length);
        offset += 24 + length;
    }
    return offset;
}

static void *consume(void *argument)
{
    const char *stream = argument;
    pd_ack acks[32] = {0};
    pd_error error;
    uint64_t last = 0;
    while (atomic_load(&producing) > 0 || atomic_load(&consumed) < PRODUCERS * BATCHES * BATCH) {
        uint8_t *block;
        size_t length;
        uint32_t records;
        uint32_t known;
        CHECK_EQUAL(pd_consumer_fetch(engine, stream, "c", 32, 1 << 20, &block, &length, &records, &error), PD_OK);
        if (records == 0) {
            poll(NULL, 0, 1);
            continue;
        }
        CHECK_EQUAL(block_sequences(block, acks, records), length);
        for (uint32_t i = 0; i < records; i++)
            CHECK_EQUAL(acks[i].sequence, ++last);
        CHECK_EQUAL(pd_consumer_ack(engine, stream, "c", acks, records, NULL, 0, &known, &error), PD_OK);
        CHECK_EQUAL(known, records);
        pd_block_free(block);
        atomic_fetch_add(&consumed, records);
    }
    return NULL;
}

/* Makes and removes a stream, looks at everything. */
static void *disturb(void *argument)
{
    (void)argument;
    pd_stream_config config = {.max_bytes = 20000, .duplicate_window_ns = 1000, .duplicate_limit = 10};
    const char *subject = "third";
    const pd_consumer_config plain = {.start_sequence = 1, .ack_wait_ns = 1000000, .max_ack_pending = 10};
    uint8_t batch[8192];
    pd_error error;
    while (atomic_load(&producing) > 0) {
        pd_stream_info stream;
        pd_consumer_info consumer;
        pd_statistics statistics;
        uint8_t *block;
        size_t length;
        uint32_t records;
        CHECK_EQUAL(pd_stream_open(engine, "third", &subject, 1, &config, &error), PD_OK);
        CHECK_EQUAL(pd_consumer_open(engine, "third", "c", ">", &plain, &error), PD_OK);
        size_t size = make_numbered(batch, "third", "", 0, BATCH, 20);
        pd_append(engine, "third", batch, size + 8, 2, UINT64_MAX, 0, &error); /* refused */
        pd_stream_info_get(engine, "one", &stream, &error);
        pd_consumer_info_get(engine, "two", "c", &consumer, &error);
        pd_engine_statistics(engine, &statistics);
        pd_stream_read(engine, "one", 0, ">", 10, 10000, &block, &length, &records, &error);
        pd_block_free(block);
        CHECK_EQUAL(pd_stream_delete(engine, "third", &error), PD_OK);
    }
    return NULL;
}

void test_threads(void)
{
    static const pd_options options = {.segment_size = 16384,
                                       .max_batch = 65536,
                                       .max_record = 4096,
                                       .max_pending_appends = 20000,
                                       .max_streams = 4,
                                       .max_consumers = 4,
                                       .max_waiting_fetches = 4};
    pd_stream_config config = {.duplicate_window_ns = UINT64_MAX / 2, .duplicate_limit = 100000};
    const pd_consumer_config plain = {.start_sequence = 1, .ack_wait_ns = UINT64_MAX / 2, .max_ack_pending = 100};
    pd_error error;
    int event_fd;
    pthread_t threads[PRODUCERS + 4];
    atomic_store(&producing, PRODUCERS);
    CHECK_EQUAL(pd_engine_open(fresh_directory(0), &options, &engine, &event_fd, &error), PD_OK);
    static const char *names[] = {"one", "two"};
    for (int i = 0; i < 2; i++) {
        CHECK_EQUAL(pd_stream_open(engine, names[i], &names[i], 1, &config, &error), PD_OK);
        CHECK_EQUAL(pd_consumer_open(engine, names[i], "c", ">", &plain, &error), PD_OK);
    }
    for (intptr_t i = 0; i < PRODUCERS; i++)
        pthread_create(&threads[i], NULL, produce, (void *)i);
    pthread_create(&threads[PRODUCERS], NULL, drain, (void *)(intptr_t)event_fd);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[PRODUCERS + 1 + i], NULL, consume, (void *)(uintptr_t)names[i]);
    pthread_create(&threads[PRODUCERS + 3], NULL, disturb, NULL);
    for (int i = 0; i < PRODUCERS + 4; i++)
        pthread_join(threads[i], NULL);
    pd_statistics statistics;
    pd_engine_statistics(engine, &statistics);
    CHECK_EQUAL(statistics.appended_records, PRODUCERS * BATCHES * BATCH);
    CHECK_EQUAL(statistics.delivered_records, PRODUCERS * BATCHES * BATCH);
    pd_engine_stop(engine);
    pd_engine_free(engine);
}
