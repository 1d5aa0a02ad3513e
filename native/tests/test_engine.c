/* The engine through its boundary: streams, routing, durability, duplicates, consumers, waiting, stopping. */
#include "engine.h"

#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

static const pd_options small = {
    .segment_size = 65536,
    .max_batch = 65536,
    .max_record = 4096,
    .max_pending_appends = 1 << 20,
    .max_streams = 4,
    .max_consumers = 3,
    .max_waiting_fetches = 2,
};
static const pd_stream_config forever = {.duplicate_window_ns = UINT64_MAX / 2, .duplicate_limit = 1000};
static const pd_consumer_config plain = {
    .start_sequence = 1, .ack_wait_ns = 50000000, .max_deliver = 0, .max_ack_pending = 100};

struct rig {
    pd_engine *engine;
    int event_fd;
    uint64_t token;
    pd_error error;
    uint8_t batch[65536];
};

static void start(struct rig *rig, const char *directory)
{
    memset(rig, 0, sizeof *rig);
    CHECK_EQUAL(pd_engine_open(directory, &small, &rig->engine, &rig->event_fd, &rig->error), PD_OK);
}

static void stop(struct rig *rig)
{
    pd_engine_stop(rig->engine);
    pd_engine_free(rig->engine);
}

static int open_stream(struct rig *rig, const char *name, const char *subject)
{
    return pd_stream_open(rig->engine, name, &subject, 1, &forever, &rig->error);
}

/* The next completion, waiting for it. */
static pd_completion next_completion(struct rig *rig)
{
    pd_completion completion = {.status = 999};
    struct pollfd wait = {.fd = rig->event_fd, .events = POLLIN};
    size_t taken = 0;
    while (taken == 0 && CHECK_EQUAL(poll(&wait, 1, 10000), 1)) /* it may have been an advisory that woke us */
        taken = pd_completions_take(rig->engine, &completion, 1);
    return completion;
}

/* Append what make_numbered makes; the completion, or the status of the refusal. */
static pd_completion append(struct rig *rig, const char *stream, const char *subject, const char *prefix,
                            uint32_t first, uint32_t count, uint32_t durability, uint64_t expect)
{
    size_t length = make_numbered(rig->batch, subject, prefix, first, count, 10);
    int rc = pd_append(rig->engine, stream, rig->batch, length, durability, expect, ++rig->token, &rig->error);
    if (rc != PD_OK)
        return (pd_completion){.status = (uint32_t)rc};
    pd_completion completion = next_completion(rig);
    CHECK_EQUAL(completion.token, rig->token);
    return completion;
}

static void routing(void)
{
    struct rig rig;
    char name[64];
    start(&rig, fresh_directory(0));
    CHECK_EQUAL(open_stream(&rig, "alerts", "alerts.>"), PD_OK);
    CHECK_EQUAL(open_stream(&rig, "logs", "logs.*"), PD_OK);
    CHECK_EQUAL(open_stream(&rig, "more", "*.ztf"), PD_EXISTS);
    CHECK(strstr(rig.error.text, "alerts") != NULL && strstr(rig.error.text, "more") != NULL);
    CHECK_EQUAL(open_stream(&rig, ".hidden", "x"), PD_INVALID);
    CHECK_EQUAL(open_stream(&rig, "bad", "a..b"), PD_INVALID);
    CHECK_EQUAL(pd_stream_find(rig.engine, "alerts.ztf.g", name, sizeof name, &rig.error), PD_OK);
    CHECK(strcmp(name, "alerts") == 0);
    CHECK_EQUAL(pd_stream_find(rig.engine, "logs.a.b", name, sizeof name, &rig.error), PD_NOT_CAPTURED);
    CHECK_EQUAL(append(&rig, "", "logs.a", "", 1, 2, 2, UINT64_MAX).first_sequence, 1);
    CHECK_EQUAL(append(&rig, "alerts", "logs.a", "", 1, 2, 2, UINT64_MAX).status, PD_NOT_CAPTURED);
    CHECK_EQUAL(append(&rig, "nowhere", "logs.a", "", 1, 2, 2, UINT64_MAX).status, PD_NO_STREAM);
    CHECK_EQUAL(append(&rig, "", "else", "", 1, 2, 2, UINT64_MAX).status, PD_NOT_CAPTURED);
    const struct item both[] = {{"logs.a", NULL, "", 0}, {"alerts.b", NULL, "", 0}};
    size_t length = make_batch(rig.batch, both, 2);
    CHECK_EQUAL(pd_append(rig.engine, "", rig.batch, length, 2, UINT64_MAX, 1, &rig.error), PD_SPANS_STREAMS);
    CHECK_EQUAL(open_stream(&rig, "alerts", "warnings.>"), PD_OK); /* changes it */
    CHECK_EQUAL(pd_stream_find(rig.engine, "alerts.ztf", name, sizeof name, &rig.error), PD_NOT_CAPTURED);
    CHECK_EQUAL(open_stream(&rig, "third", "alerts.>"), PD_OK);
    CHECK_EQUAL(open_stream(&rig, "fourth", "four"), PD_OK);
    CHECK_EQUAL(open_stream(&rig, "fifth", "five"), PD_LIMIT_REACHED);
    CHECK_EQUAL(pd_stream_delete(rig.engine, "third", &rig.error), PD_OK);
    CHECK_EQUAL(pd_stream_delete(rig.engine, "third", &rig.error), PD_NO_STREAM);
    CHECK_EQUAL(open_stream(&rig, "fifth", "alerts.>"), PD_OK);
    stop(&rig);
}

static void duplicates_and_expectations(void)
{
    struct rig rig;
    uint32_t positions[8];
    const char *directory = fresh_directory(0);
    start(&rig, directory);
    CHECK_EQUAL(open_stream(&rig, "s", "s"), PD_OK);
    CHECK_EQUAL(append(&rig, "s", "s", "id", 1, 5, 2, UINT64_MAX).appended, 5);
    pd_completion again = append(&rig, "s", "s", "id", 4, 4, 2, UINT64_MAX);
    CHECK(again.appended == 2 && again.duplicates == 2 && again.first_sequence == 6);
    CHECK_EQUAL(pd_completion_duplicates(rig.engine, rig.token, positions, 8), 2);
    CHECK(positions[0] == 0 && positions[1] == 1);
    again = append(&rig, "s", "s", "id", 1, 7, 2, UINT64_MAX);
    CHECK(again.appended == 0 && again.duplicates == 7 && again.first_sequence == 7 && again.status == PD_OK);
    CHECK_EQUAL(append(&rig, "s", "s", "id", 8, 1, 2, 6).status, PD_SEQUENCE_MISMATCH);
    CHECK_EQUAL(append(&rig, "s", "s", "id", 8, 1, 2, 7).appended, 1); /* a refusal remembers nothing */
    CHECK_EQUAL(append(&rig, "s", "s", "id", 8, 1, 2, 7).duplicates, 1);
    stop(&rig);
    start(&rig, directory);
    CHECK_EQUAL(open_stream(&rig, "s", "s"), PD_OK);
    again = append(&rig, "s", "s", "id", 1, 9, 0, UINT64_MAX);
    CHECK(again.appended == 1 && again.duplicates == 8);
    stop(&rig);
}

static void consuming(void)
{
    struct rig rig;
    uint8_t *block;
    size_t length;
    uint32_t records;
    uint32_t known;
    pd_consumer_info info;
    const char *directory = fresh_directory(0);
    start(&rig, directory);
    CHECK_EQUAL(open_stream(&rig, "s", "s.>"), PD_OK);
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "c", "s.*", &plain, &rig.error), PD_OK);
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "c", "s.>", &plain, &rig.error), PD_EXISTS);
    append(&rig, "s", "s.a", "", 1, 5, 0, UINT64_MAX);
    append(&rig, "s", "s.a.b", "", 1, 5, 2, UINT64_MAX);
    CHECK_EQUAL(pd_consumer_fetch(rig.engine, "s", "c", 3, 1 << 20, &block, &length, &records, &rig.error), PD_OK);
    CHECK_EQUAL(records, 3);
    pd_block_free(block);
    pd_ack acks[] = {{.sequence = 1}, {.sequence = 2}, {.sequence = 9}};
    CHECK_EQUAL(pd_consumer_ack(rig.engine, "s", "c", acks, 3, NULL, 0, &known, &rig.error), PD_OK);
    CHECK_EQUAL(known, 2);
    CHECK_EQUAL(pd_consumer_info_get(rig.engine, "s", "c", &info, &rig.error), PD_OK);
    CHECK(info.ack_floor == 2 && info.pending == 2 && info.ack_pending == 1);
    stop(&rig);
    start(&rig, directory);
    CHECK_EQUAL(open_stream(&rig, "s", "s.>"), PD_OK);
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "c", "s.*", &plain, &rig.error), PD_OK);
    CHECK_EQUAL(pd_consumer_fetch(rig.engine, "s", "c", 10, 1 << 20, &block, &length, &records, &rig.error), PD_OK);
    CHECK_EQUAL(records, 3); /* 3 again, 4 and 5 for the first time */
    pd_block_free(block);
    CHECK_EQUAL(pd_stream_read(rig.engine, "s", 4, ">", 10, 1 << 20, &block, &length, &records, &rig.error), PD_OK);
    CHECK_EQUAL(records, 6);
    pd_block_free(block);
    CHECK_EQUAL(pd_stream_read(rig.engine, "s", 10, ">", 10, 1 << 20, &block, &length, &records, &rig.error), PD_OK);
    CHECK(records == 0 && block == NULL);
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "d", ">", &plain, &rig.error), PD_OK);
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "e", ">", &plain, &rig.error), PD_OK);
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "f", ">", &plain, &rig.error), PD_LIMIT_REACHED);
    CHECK_EQUAL(pd_consumer_delete(rig.engine, "s", "c", &rig.error), PD_OK);
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "c", ">", &plain, &rig.error), PD_OK); /* a new one, from 1 */
    CHECK_EQUAL(pd_consumer_info_get(rig.engine, "s", "c", &info, &rig.error), PD_OK);
    CHECK_EQUAL(info.pending, 10);
    stop(&rig);
}

static void waiting(void)
{
    struct rig rig;
    uint8_t *block;
    size_t length;
    uint32_t records;
    start(&rig, fresh_directory(0));
    CHECK_EQUAL(open_stream(&rig, "s", "s"), PD_OK);
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "c", ">", &plain, &rig.error), PD_OK);
    CHECK_EQUAL(pd_consumer_wait(rig.engine, "s", "c", 20, 71, &rig.error), PD_OK); /* comes to nothing */
    pd_completion completion = next_completion(&rig);
    CHECK(completion.token == 71 && completion.appended == 0 && completion.status == PD_OK);
    CHECK_EQUAL(pd_consumer_wait(rig.engine, "s", "c", 60000, 72, &rig.error), PD_OK);
    CHECK_EQUAL(pd_consumer_wait(rig.engine, "s", "c", 60000, 73, &rig.error), PD_OK);
    CHECK_EQUAL(pd_consumer_wait(rig.engine, "s", "c", 60000, 74, &rig.error), PD_LIMIT_REACHED);
    size_t batch = make_numbered(rig.batch, "s", "", 1, 1, 10);
    CHECK_EQUAL(pd_append(rig.engine, "s", rig.batch, batch, 2, UINT64_MAX, 75, &rig.error), PD_OK);
    uint64_t seen = 0;
    for (int i = 0; i < 3; i++) {
        completion = next_completion(&rig);
        CHECK_EQUAL(completion.appended, 1);
        seen += completion.token;
    }
    CHECK_EQUAL(seen, 72 + 73 + 75);
    CHECK_EQUAL(pd_consumer_fetch(rig.engine, "s", "c", 9, 1 << 20, &block, &length, &records, &rig.error), PD_OK);
    CHECK_EQUAL(records, 1);
    pd_block_free(block);
    CHECK_EQUAL(pd_consumer_wait(rig.engine, "s", "c", 60000, 76, &rig.error), PD_OK); /* until ack_wait is over */
    completion = next_completion(&rig);
    CHECK(completion.token == 76 && completion.appended == 1);
    CHECK_EQUAL(pd_consumer_fetch(rig.engine, "s", "c", 9, 1 << 20, &block, &length, &records, &rig.error), PD_OK);
    CHECK_EQUAL(records, 1);
    pd_block_free(block);
    CHECK_EQUAL(pd_consumer_wait(rig.engine, "s", "c", 60000, 77, &rig.error), PD_OK);
    CHECK_EQUAL(pd_consumer_delete(rig.engine, "s", "c", &rig.error), PD_OK);
    completion = next_completion(&rig);
    CHECK(completion.token == 77 && completion.status == PD_NO_CONSUMER);
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "c", ">", &plain, &rig.error), PD_OK);
    CHECK_EQUAL(pd_consumer_fetch(rig.engine, "s", "c", 9, 1 << 20, &block, &length, &records, &rig.error), PD_OK);
    pd_block_free(block);
    pd_ack done = {.sequence = 1};
    CHECK_EQUAL(pd_consumer_ack(rig.engine, "s", "c", &done, 1, NULL, 0, &records, &rig.error), PD_OK);
    CHECK_EQUAL(pd_consumer_wait(rig.engine, "s", "c", 60000, 78, &rig.error), PD_OK);
    pd_engine_stop(rig.engine);
    completion = next_completion(&rig);
    CHECK(completion.token == 78 && completion.status == PD_STOPPING);
    CHECK_EQUAL(append(&rig, "s", "s", "", 1, 1, 2, UINT64_MAX).status, PD_STOPPING);
    pd_engine_free(rig.engine);
}

/* With the commit thread gone, appends that want the disk stay pending: what may be seen then? */
static void nothing_is_seen_before_it_is_durable(void)
{
    struct rig rig;
    pd_stream_info info;
    start(&rig, fresh_directory(0));
    CHECK_EQUAL(open_stream(&rig, "s", "s"), PD_OK);
    append(&rig, "s", "s", "", 1, 3, 1, UINT64_MAX);
    pd_commit_stop(&rig.engine->commit);
    size_t length = make_numbered(rig.batch, "s", "x", 1, 2, 10);
    CHECK_EQUAL(pd_append(rig.engine, "s", rig.batch, length, 2, UINT64_MAX, 100, &rig.error), PD_OK);
    CHECK_EQUAL(pd_append(rig.engine, "s", rig.batch, length, 2, UINT64_MAX, 101, &rig.error), PD_OK);
    pd_stream_info_get(rig.engine, "s", &info, &rig.error);
    CHECK(info.last_sequence == 5 && info.durable_sequence == 3);
    pd_completion completion = append(&rig, "s", "s", "", 1, 4, 1, UINT64_MAX); /* answered, and hidden */
    CHECK_EQUAL(completion.first_sequence, 6);
    pd_stream_info_get(rig.engine, "s", &info, &rig.error);
    CHECK(info.last_sequence == 9 && info.durable_sequence == 3);
    struct pd_stream *stream = pd_engine_stream(rig.engine, "s", &rig.error);
    pd_stream_commit(stream);
    pd_stream_info_get(rig.engine, "s", &info, &rig.error);
    CHECK_EQUAL(info.durable_sequence, 9);
    completion = next_completion(&rig);
    CHECK(completion.token == 100 && completion.appended == 2);
    completion = next_completion(&rig); /* the duplicates of it were not acknowledged before it */
    CHECK(completion.token == 101 && completion.duplicates == 2);

    int pipe_ends[2];
    CHECK(pipe(pipe_ends) == 0);
    length = make_numbered(rig.batch, "s", "x", 1, 2, 10);
    CHECK_EQUAL(pd_append(rig.engine, "s", rig.batch, length, 0, UINT64_MAX, 102, &rig.error), PD_OK);
    next_completion(&rig);
    length = make_numbered(rig.batch, "s", "y", 1, 2, 10);
    CHECK_EQUAL(pd_append(rig.engine, "s", rig.batch, length, 2, UINT64_MAX, 103, &rig.error), PD_OK);
    CHECK(dup2(pipe_ends[0], stream->log.segments[0]->fd) >= 0); /* fdatasync fails on a pipe */
    pd_stream_commit(stream);
    completion = next_completion(&rig);
    CHECK(completion.token == 103 && completion.status == PD_IO_ERROR);
    pd_stream_info_get(rig.engine, "s", &info, &rig.error);
    CHECK_EQUAL(info.durable_sequence, 9);
    CHECK_EQUAL(append(&rig, "s", "s", "", 1, 1, 0, UINT64_MAX).status, PD_IO_ERROR);
    pd_stream_unref(stream);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    stop(&rig);
}

/* A commit that covers a part of what waits (the oldest segments of more than it takes at once). */
static void a_commit_shows_what_it_made_durable(void)
{
    struct rig rig;
    pd_stream_info info;
    pd_options options = small;
    options.segment_size = 4096;
    memset(&rig, 0, sizeof rig);
    CHECK_EQUAL(pd_engine_open(fresh_directory(0), &options, &rig.engine, &rig.event_fd, &rig.error), PD_OK);
    CHECK_EQUAL(open_stream(&rig, "s", "s"), PD_OK);
    pd_commit_stop(&rig.engine->commit);
    size_t length = make_numbered(rig.batch, "s", "", 1, 1, 4000);
    for (uint64_t i = 1; i <= PD_SYNC_SEGMENTS + 6; i++) /* one for each segment */
        CHECK_EQUAL(pd_append(rig.engine, "s", rig.batch, length, 2, UINT64_MAX, i, &rig.error), PD_OK);
    struct pd_stream *stream = pd_engine_stream(rig.engine, "s", &rig.error);
    for (uint64_t durable = PD_SYNC_SEGMENTS; durable <= PD_SYNC_SEGMENTS + 6; durable += 6) {
        pd_completion done[PD_SYNC_SEGMENTS + 6];
        pd_stream_commit(stream);
        pd_stream_info_get(rig.engine, "s", &info, &rig.error);
        CHECK_EQUAL(info.durable_sequence, durable);
        size_t wanted = durable == PD_SYNC_SEGMENTS ? PD_SYNC_SEGMENTS : 6;
        CHECK_EQUAL(pd_completions_take(rig.engine, done, PD_SYNC_SEGMENTS + 6), wanted);
        CHECK_EQUAL(done[wanted - 1].first_sequence, durable);
    }
    pd_stream_unref(stream);
    stop(&rig);
}

static void tokens_are_bounded(void)
{
    struct rig rig;
    pd_completion done[64];
    start(&rig, fresh_directory(0));
    CHECK_EQUAL(open_stream(&rig, "s", "s"), PD_OK);
    size_t length = make_numbered(rig.batch, "s", "", 1, 1, 8);
    for (int round = 0; round < 2; round++) {
        for (uint64_t i = 0; i < PD_TOKENS_MAX; i++)
            CHECK_EQUAL(pd_append(rig.engine, "s", rig.batch, length, 0, UINT64_MAX, i, &rig.error), PD_OK);
        CHECK_EQUAL(pd_append(rig.engine, "s", rig.batch, length, 0, UINT64_MAX, 0, &rig.error), PD_LIMIT_REACHED);
        uint64_t taken = 0;
        for (size_t count; (count = pd_completions_take(rig.engine, done, 64)) > 0; taken += count)
            CHECK_EQUAL(done[0].token, taken);
        CHECK_EQUAL(taken, PD_TOKENS_MAX);
    }
    stop(&rig);
}

static void room_is_bounded(void)
{
    struct rig rig;
    start(&rig, fresh_directory(0));
    CHECK_EQUAL(open_stream(&rig, "s", "s"), PD_OK);
    pd_commit_stop(&rig.engine->commit);
    size_t length = make_numbered(rig.batch, "s", "", 1, 10, 4000);
    int rc = PD_OK;
    size_t taken = 0;
    while ((rc = pd_append(rig.engine, "s", rig.batch, length, 2, UINT64_MAX, 1, &rig.error)) == PD_OK)
        taken += length;
    CHECK_EQUAL(rc, PD_LIMIT_REACHED);
    CHECK(taken <= small.max_pending_appends && taken + length > small.max_pending_appends);
    stop(&rig);
}

static void retention_runs_by_itself(void)
{
    struct rig rig;
    pd_stream_info info = {0};
    pd_stream_config limited = {.max_bytes = 40000, .duplicate_window_ns = 0, .duplicate_limit = 0};
    const char *subject = "s";
    start(&rig, fresh_directory(0));
    CHECK_EQUAL(pd_stream_open(rig.engine, "s", &subject, 1, &limited, &rig.error), PD_OK);
    for (int i = 0; i < 100; i++)
        append(&rig, "s", "s", "", 1, 40, 1, UINT64_MAX);
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "c", ">", &plain, &rig.error), PD_OK);
    for (int tries = 0; tries < 1000; tries++) {
        pd_stream_info_get(rig.engine, "s", &info, &rig.error);
        if (info.bytes <= 40000)
            break;
        poll(NULL, 0, 5);
    }
    CHECK(info.bytes <= 40000);
    CHECK(info.first_sequence > 1);
    CHECK_EQUAL(info.last_sequence, 4000);
    CHECK_EQUAL(info.messages, info.last_sequence - info.first_sequence + 1);
    pd_consumer_info consumer;
    pd_consumer_info_get(rig.engine, "s", "c", &consumer, &rig.error);
    CHECK_EQUAL(consumer.pending, info.messages);
    stop(&rig);
}

static void limit_file_size(rlim_t bytes)
{
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = bytes;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

/* It is told when the disk becomes full, not at each of the batches that it refuses; and no flutter is told. */
static void a_full_disk_is_told_once(void)
{
    struct rig rig;
    pd_advisory told[8];
    start(&rig, fresh_directory(0));
    CHECK_EQUAL(open_stream(&rig, "s", "s"), PD_OK);
    append(&rig, "s", "s", "", 1, 1, 2, UINT64_MAX);
    CHECK_EQUAL(pd_advisories_take(rig.engine, told, 8), 0);
    for (int round = 0; round < 3; round++) {
        limit_file_size(100);
        for (int i = 0; i < 5; i++)
            CHECK_EQUAL(append(&rig, "s", "s", "", 1, 100, 2, UINT64_MAX).status, PD_STORAGE_FULL);
        limit_file_size(RLIM_INFINITY);
        CHECK_EQUAL(append(&rig, "s", "s", "", 1, 1, 2, UINT64_MAX).status, PD_OK);
    }
    CHECK_EQUAL(pd_advisories_take(rig.engine, told, 8), 1);
    CHECK(told[0].kind == PD_ADVISE_STORAGE_FULL && strcmp(told[0].stream, "s") == 0 && told[0].consumer[0] == 0);
    stop(&rig);
}

void test_engine(void)
{
    routing();
    duplicates_and_expectations();
    consuming();
    waiting();
    nothing_is_seen_before_it_is_durable();
    a_commit_shows_what_it_made_durable();
    tokens_are_bounded();
    room_is_bounded();
    retention_runs_by_itself();
    a_full_disk_is_told_once();
}
