/* The log: appending, rolling, reading, retention. */
#include "logs.h"

#include <stdlib.h>

static void many_segments(void)
{
    const char *directory = fresh_directory(0);
    struct pd_log log;
    pd_error error;
    CHECK_EQUAL(pd_log_open(&log, directory, &small_segments, &error), PD_OK);
    CHECK_EQUAL(pd_log_first_sequence(&log), 1);
    for (int i = 0; i < 60; i++)
        CHECK_EQUAL(append_records(&log, 1 + random_below(20), i % 3 == 0), PD_OK);
    uint64_t last = log.last_sequence;
    CHECK(log.count > 5);
    CHECK_EQUAL(read_all(&log, &error), PD_OK);
    struct pd_reader reader = {0};
    for (int i = 0; i < 2000; i++) { /* anywhere, forth and back */
        uint64_t at = 1 + random_below((uint32_t)last);
        CHECK_EQUAL(pd_reader_seek(&reader, &log, at, &error), PD_OK);
        CHECK_EQUAL(reader.sequence, at);
    }
    CHECK_EQUAL(pd_reader_seek(&reader, &log, last + 1, &error), PD_INVALID);
    pd_log_close(&log);
    CHECK_EQUAL(pd_log_open(&log, directory, &small_segments, &error), PD_OK);
    CHECK_EQUAL(log.last_sequence, last);
    CHECK_EQUAL(log.epoch, 2);
    CHECK_EQUAL(log.cut_bytes, 0);
    CHECK_EQUAL(read_all(&log, &error), PD_OK);
    CHECK_EQUAL(append_records(&log, 5, true), PD_OK);
    CHECK_EQUAL(read_all(&log, &error), PD_OK);
    CHECK_EQUAL(log.durable_sequence, last + 5);
    pd_log_close(&log);
    CHECK_EQUAL(pd_log_delete(directory, &error), PD_OK);
}

static void a_batch_larger_than_a_segment(void)
{
    const char *directory = fresh_directory(0);
    struct pd_log log;
    CHECK_EQUAL(pd_log_open(&log, directory, &small_segments, NULL), PD_OK);
    for (int i = 0; i < 3; i++)
        CHECK_EQUAL(append_records(&log, 200, true), PD_OK);
    CHECK_EQUAL(log.count, 3);
    CHECK_EQUAL(read_all(&log, NULL), PD_OK);
    pd_log_close(&log);
}

static void retention_by_bytes(void)
{
    const char *directory = fresh_directory(0);
    struct pd_log_options options = small_segments;
    struct pd_log log;
    options.max_bytes = 12000;
    CHECK_EQUAL(pd_log_open(&log, directory, &options, NULL), PD_OK);
    for (int i = 0; i < 100; i++) {
        append_records(&log, 5, true);
        while (pd_log_oldest_expired(&log, pd_wall_ns()))
            drop_oldest(&log);
        CHECK(log.bytes <= options.max_bytes);
    }
    CHECK(pd_log_first_sequence(&log) > 300);
    CHECK_EQUAL(read_all(&log, NULL), PD_OK);
    uint64_t first = pd_log_first_sequence(&log);
    uint64_t bytes = log.bytes;
    pd_log_close(&log);
    CHECK_EQUAL(pd_log_open(&log, directory, &options, NULL), PD_OK);
    CHECK_EQUAL(pd_log_first_sequence(&log), first);
    CHECK_EQUAL(log.bytes, bytes);
    CHECK_EQUAL(log.last_sequence, 500);
    pd_log_close(&log);
}

static void retention_by_age(void)
{
    const char *directory = fresh_directory(0);
    struct pd_log_options options = small_segments;
    struct pd_log log;
    options.max_age_ns = 3600u * 1000000000u;
    CHECK_EQUAL(pd_log_open(&log, directory, &options, NULL), PD_OK);
    append_records(&log, 10, true);
    CHECK_EQUAL(log.count, 1);
    uint64_t later = pd_wall_ns() + options.max_age_ns + 1000000000u;
    CHECK(!pd_log_oldest_expired(&log, later)); /* the active segment stays */
    log.segments[0]->oldest_time_ns -= 2 * options.max_age_ns;
    append_records(&log, 10, true); /* begins a new one although the old is not full */
    CHECK_EQUAL(log.count, 2);
    CHECK(!pd_log_oldest_expired(&log, pd_wall_ns()));
    CHECK(pd_log_oldest_expired(&log, later));
    drop_oldest(&log);
    CHECK_EQUAL(pd_log_first_sequence(&log), 11);
    pd_log_close(&log);
}

static void time_never_runs_backwards(void)
{
    const char *directory = fresh_directory(0);
    struct pd_log log;
    uint8_t batch[512];
    struct pd_batch_header header;
    CHECK_EQUAL(pd_log_open(&log, directory, &one_segment, NULL), PD_OK);
    uint64_t times[] = {1000, 500, 2000};
    uint64_t wanted[] = {1000, 1000, 2000};
    for (int i = 0; i < 3; i++) {
        make_numbered(batch, "a", "", 0, 1, 8);
        memcpy(&header, batch, sizeof header);
        CHECK_EQUAL(pd_log_append(&log, &header, batch + PD_BATCH_HEADER, times[i], NULL), PD_OK);
        CHECK_EQUAL(header.append_time_ns, wanted[i]);
    }
    pd_log_close(&log);
}

static void a_failed_sync_is_final(void)
{
    const char *directory = fresh_directory(0);
    struct pd_log log;
    struct pd_log_sync sync;
    pd_error error;
    CHECK_EQUAL(pd_log_open(&log, directory, &one_segment, NULL), PD_OK);
    append_records(&log, 10, true);
    append_records(&log, 10, false);
    pd_log_sync_begin(&log, &sync);
    CHECK_EQUAL(sync.sequence, 20);
    pd_log_sync_end(&log, &sync, PD_IO_ERROR);
    CHECK_EQUAL(log.durable_sequence, 10);
    CHECK_EQUAL(append_records(&log, 1, false), PD_IO_ERROR);
    CHECK_EQUAL(read_all(&log, NULL), PD_OK);
    pd_log_close(&log);
    CHECK_EQUAL(pd_log_open(&log, directory, &one_segment, &error), PD_OK);
    CHECK_EQUAL(append_records(&log, 1, true), PD_OK);
    pd_log_close(&log);
}

void test_log(void)
{
    many_segments();
    a_batch_larger_than_a_segment();
    retention_by_bytes();
    retention_by_age();
    time_never_runs_backwards();
    a_failed_sync_is_final();
}
