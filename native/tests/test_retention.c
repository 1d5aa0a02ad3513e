/* Retention by consumers: consumers that acknowledge, give up, come and go; journals and logs that a crash parted. */
#include "erasure.h"
#include "streams.h"

#include <poll.h>
#include <stdlib.h>

static const pd_consumer_config plain = {.start_sequence = 1, .ack_wait_ns = 3600000000000u, .max_ack_pending = 1000};

static void consumer(struct stream_rig *rig, const char *name, const char *filter)
{
    CHECK_EQUAL(pd_consumer_open(rig->engine, "s", name, filter, &plain, &rig->error), PD_OK);
}

static uint32_t fetch(struct stream_rig *rig, const char *name, uint32_t count)
{
    uint8_t *block;
    size_t length;
    uint32_t records;
    CHECK_EQUAL(pd_consumer_fetch(rig->engine, "s", name, count, 1 << 20, &block, &length, &records, &rig->error),
                PD_OK);
    pd_block_free(block);
    return records;
}

static void ack(struct stream_rig *rig, const char *name, uint64_t from, uint64_t to)
{
    uint32_t known;
    for (uint64_t i = from; i <= to; i++) {
        CHECK_EQUAL(pd_consumer_ack(rig->engine, "s", name, &(pd_ack){.sequence = i}, 1, NULL, 0, &known, &rig->error),
                    PD_OK);
        CHECK_EQUAL(known, 1);
    }
}

static uint64_t messages(struct stream_rig *rig)
{
    pd_stream_info info;
    rig_info(rig, &info);
    return info.messages;
}

/* Wait for the timer thread. */
static void wait_for_messages(struct stream_rig *rig, uint64_t wanted)
{
    for (int tries = 0; tries < 2000 && messages(rig) != wanted; tries++)
        poll(NULL, 0, 1);
    CHECK_EQUAL(messages(rig), wanted);
}

static size_t segment_count(struct stream_rig *rig)
{
    struct pd_stream *stream = pd_engine_stream(rig->engine, "s", &rig->error);
    pthread_mutex_lock(&stream->lock);
    size_t count = stream->log.count;
    pthread_mutex_unlock(&stream->lock);
    pd_stream_unref(stream);
    return count;
}

/* Out of order: segments in the middle go before those in front of them. */
static void a_queue_gives_its_segments_back(void)
{
    struct stream_rig rig;
    const pd_stream_config config = {.retention = PD_RETENTION_WORK_QUEUE};
    const char *directory = fresh_directory(0);
    rig_start(&rig, directory, &config);
    consumer(&rig, "a", "a");
    consumer(&rig, "b", "b");
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "c", ">", &plain, &rig.error), PD_EXISTS);
    CHECK(strstr(rig.error.text, "overlaps a of its consumer a") != NULL);
    for (int i = 0; i < 40; i++)
        rig_append(&rig, i == 0 || i == 20 ? "b" : "a", "", 1, 10, 100);
    size_t before = segment_count(&rig);
    CHECK(before >= 12);
    CHECK_EQUAL(fetch(&rig, "a", 1000), 380);
    ack(&rig, "a", 211, 400);
    ack(&rig, "a", 11, 200);
    CHECK_EQUAL(messages(&rig), 20);
    for (int tries = 0; tries < 2000 && segment_count(&rig) > 3; tries++)
        poll(NULL, 0, 1);
    CHECK_EQUAL(segment_count(&rig), 3); /* with the first, one in the middle, and the active one */
    rig_stop(&rig);
    rig_start(&rig, directory, &config);
    consumer(&rig, "a", "a");
    consumer(&rig, "b", "b");
    CHECK_EQUAL(fetch(&rig, "a", 1000), 0);
    CHECK_EQUAL(fetch(&rig, "b", 1000), 20);
    CHECK_EQUAL(rig_append(&rig, "a", "", 1, 1, 10).first_sequence, 401);
    rig_stop(&rig);
}

/* The consumer's journal knows of an acknowledgement that the log does not: the sweep makes up for it. */
static void a_crash_between_the_journals(uint32_t retention)
{
    struct stream_rig rig;
    char path[400];
    char saved[400];
    const pd_stream_config config = {.retention = retention};
    const char *directory = fresh_directory(0);
    snprintf(path, sizeof path, "%s/s/log/erased", directory);
    snprintf(saved, sizeof saved, "%s/saved", fresh_directory(1));
    rig_start(&rig, directory, &config);
    consumer(&rig, "a", "a");
    CHECK_EQUAL(pd_stream_consumers_known(rig.engine, "s", &rig.error), PD_OK);
    rig_append(&rig, "a", "", 1, 20, 10);
    CHECK_EQUAL(fetch(&rig, "a", 10), 10);
    ack(&rig, "a", 2, 3);
    copy_file(path, saved);
    ack(&rig, "a", 5, 9);
    rig_stop(&rig);
    copy_file(saved, path);
    rig_start(&rig, directory, &config);
    CHECK_EQUAL(messages(&rig), 18);
    consumer(&rig, "a", "a");
    CHECK_EQUAL(pd_stream_consumers_known(rig.engine, "s", &rig.error), PD_OK);
    wait_for_messages(&rig, 13);
    CHECK_EQUAL(fetch(&rig, "a", 100), 13);
    rig_stop(&rig);
}

/* Nothing goes for want of interest while consumers may be missing. */
static void interest_waits_until_all_are_known(void)
{
    struct stream_rig rig;
    const pd_stream_config config = {.retention = PD_RETENTION_INTEREST};
    const char *directory = fresh_directory(0);
    rig_start(&rig, directory, &config);
    consumer(&rig, "a", "a");
    consumer(&rig, "all", ">");
    CHECK_EQUAL(pd_stream_consumers_known(rig.engine, "s", &rig.error), PD_OK);
    rig_append(&rig, "a", "", 1, 5, 10);
    rig_append(&rig, "b", "", 1, 5, 10);
    rig_stop(&rig);
    rig_start(&rig, directory, &config);
    consumer(&rig, "a", "a");
    rig_append(&rig, "b", "", 1, 5, 10);
    CHECK_EQUAL(fetch(&rig, "a", 5), 5);
    ack(&rig, "a", 1, 5);
    CHECK_EQUAL(messages(&rig), 15);
    consumer(&rig, "all", ">");
    CHECK_EQUAL(pd_stream_consumers_known(rig.engine, "s", &rig.error), PD_OK);
    CHECK_EQUAL(fetch(&rig, "all", 100), 15);
    ack(&rig, "all", 1, 15);
    CHECK_EQUAL(messages(&rig), 0);
    rig_append(&rig, "c", "", 1, 5, 10);
    CHECK_EQUAL(messages(&rig), 5);
    CHECK_EQUAL(pd_consumer_delete(rig.engine, "s", "all", &rig.error), PD_OK);
    wait_for_messages(&rig, 0);
    rig_append(&rig, "c", "", 1, 5, 10);
    CHECK_EQUAL(messages(&rig), 0);
    rig_stop(&rig);
}

/* Delivered is done; given up is done; passed over is done. */
static void all_ways_of_being_done(void)
{
    struct stream_rig rig;
    uint64_t first;
    pd_consumer_config config = plain;
    const pd_stream_config queue = {.retention = PD_RETENTION_WORK_QUEUE};
    rig_start(&rig, fresh_directory(0), &queue);
    config.ack_policy = 2;
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "none", "a", &config, &rig.error), PD_OK);
    config = plain;
    config.max_deliver = 1;
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "once", "b", &config, &rig.error), PD_OK);
    consumer(&rig, "seek", "c");
    rig_append(&rig, "a", "", 1, 10, 10);
    rig_append(&rig, "b", "", 1, 10, 10);
    rig_append(&rig, "c", "", 1, 10, 10);
    CHECK_EQUAL(fetch(&rig, "none", 7), 7);
    CHECK_EQUAL(messages(&rig), 23);
    CHECK_EQUAL(fetch(&rig, "once", 4), 4);
    uint32_t known;
    CHECK_EQUAL(pd_consumer_ack(rig.engine, "s", "once",
                                (pd_ack[]){{.sequence = 11, .kind = 1}, {.sequence = 12, .kind = 3}}, 2, NULL, 0,
                                &known, &rig.error),
                PD_OK);
    CHECK_EQUAL(messages(&rig), 21);
    const pd_start at = {.policy = 4, .sequence = 26};
    CHECK_EQUAL(pd_consumer_seek(rig.engine, "s", "seek", &at, &first, &rig.error), PD_OK);
    wait_for_messages(&rig, 16);
    CHECK_EQUAL(fetch(&rig, "seek", 100), 5);
    rig_stop(&rig);
}

void test_retention(void)
{
    a_queue_gives_its_segments_back();
    a_crash_between_the_journals(PD_RETENTION_WORK_QUEUE);
    a_crash_between_the_journals(PD_RETENTION_INTEREST);
    interest_waits_until_all_are_known();
    all_ways_of_being_done();
}
