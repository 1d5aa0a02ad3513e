/* Recovery: a torn tail is cut, damage to what was durable is refused. */
#include "logs.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BATCHES = 4, RECORDS = 2 };

/* A log of BATCHES batches with RECORDS records each in one file; the offset at which each ends. */
static void write_log(const char *directory, bool sync, size_t *ends)
{
    struct pd_log log;
    CHECK_EQUAL(pd_log_open(&log, directory, &one_segment, NULL), PD_OK);
    for (int i = 0; i < BATCHES; i++) {
        CHECK_EQUAL(append_records(&log, RECORDS, sync), PD_OK);
        ends[i] = log.segments[0]->size;
    }
    pd_log_close(&log);
}

/* A copy of the log's only file in another directory. */
static const char *copy_log(const char *directory)
{
    static char from[512];
    const char *copy = fresh_directory(1);
    snprintf(from, sizeof from, "%s", segment_path(directory, 1));
    copy_file(from, segment_path(copy, 1));
    return copy;
}

static int whole_batches(const size_t *ends, size_t cut)
{
    int whole = 0;
    while (whole < BATCHES && ends[whole] <= cut)
        whole++;
    return whole;
}

static void cut_at_every_byte(void)
{
    size_t ends[BATCHES];
    const char *directory = fresh_directory(0);
    write_log(directory, true, ends);
    for (size_t cut = 0; cut <= ends[BATCHES - 1]; cut++) {
        struct pd_log log;
        pd_error error = {""};
        const char *copy = copy_log(directory);
        CHECK(truncate(segment_path(copy, 1), (off_t)cut) == 0);
        if (!CHECK_EQUAL(pd_log_open(&log, copy, &one_segment, &error), PD_OK))
            continue;
        int whole = whole_batches(ends, cut);
        size_t end = whole > 0 ? ends[whole - 1] : 0;
        CHECK_EQUAL(log.last_sequence, (uint64_t)whole * RECORDS);
        CHECK(cut == end ? log.cut_bytes == 0 : log.cut_bytes <= cut - end);
        CHECK_EQUAL(read_all(&log, &error), PD_OK);
        CHECK_EQUAL(append_records(&log, 2, true), PD_OK);
        CHECK_EQUAL(read_all(&log, &error), PD_OK);
        pd_log_close(&log);
    }
}

static void damage_in_the_middle_is_refused(void)
{
    size_t ends[BATCHES];
    const char *directory = fresh_directory(0);
    write_log(directory, true, ends);
    for (size_t at = 0; at < ends[BATCHES - 1]; at += 2) {
        struct pd_log log;
        pd_error error = {""};
        const char *copy = copy_log(directory);
        flip_byte(segment_path(copy, 1), at, (uint8_t)(1u << random_below(8)));
        int rc = pd_log_open(&log, copy, &one_segment, &error);
        int batch = whole_batches(ends, at);
        if (batch == BATCHES - 1) { /* nothing behind it testifies */
            CHECK_EQUAL(rc, PD_OK);
            CHECK_EQUAL(log.last_sequence, (uint64_t)(BATCHES - 1) * RECORDS);
            CHECK_EQUAL(log.cut_bytes, ends[BATCHES - 1] - ends[BATCHES - 2]);
            pd_log_close(&log);
        } else {
            char wanted[64];
            snprintf(wanted, sizeof wanted, "offset %zu of", batch > 0 ? ends[batch - 1] : 0);
            CHECK_EQUAL(rc, PD_CORRUPTED);
            CHECK(strstr(error.text, wanted) != NULL && strstr(error.text, copy) != NULL);
        }
    }
}

static void a_hole_in_what_was_never_synced_is_cut(void)
{
    size_t ends[BATCHES];
    const char *directory = fresh_directory(0);
    write_log(directory, false, ends);
    for (int batch = 0; batch < BATCHES; batch++) {
        struct pd_log log;
        const char *copy = copy_log(directory);
        size_t begin = batch > 0 ? ends[batch - 1] : 0;
        int fd = open(segment_path(copy, 1), O_WRONLY);
        static const char zeros[64];
        CHECK(pwrite(fd, zeros, sizeof zeros, (off_t)begin) == (ssize_t)sizeof zeros);
        close(fd);
        CHECK_EQUAL(pd_log_open(&log, copy, &one_segment, NULL), PD_OK);
        CHECK_EQUAL(log.last_sequence, (uint64_t)batch * RECORDS);
        CHECK_EQUAL(log.cut_bytes, ends[BATCHES - 1] - begin);
        pd_log_close(&log);
    }
}

static void allocated_zeros_are_no_torn_tail(void)
{
    size_t ends[BATCHES];
    struct pd_log log;
    const char *directory = fresh_directory(0);
    write_log(directory, true, ends);
    CHECK(truncate(segment_path(directory, 1), 1 << 20) == 0);
    CHECK_EQUAL(pd_log_open(&log, directory, &one_segment, NULL), PD_OK);
    CHECK_EQUAL(log.last_sequence, BATCHES * RECORDS);
    CHECK_EQUAL(log.cut_bytes, 0);
    CHECK_EQUAL(file_size(segment_path(directory, 1)), ends[BATCHES - 1]);
    pd_log_close(&log);
}

/* A log published as a payload into another log must not testify when the batch that holds it is torn. */
static void a_payload_does_not_testify(void)
{
    size_t ends[BATCHES];
    static uint8_t inner[8192];
    static uint8_t batch[16384];
    struct pd_batch_header header;
    struct pd_log log;
    const char *directory = fresh_directory(0);
    write_log(directory, true, ends);
    FILE *file = fopen(segment_path(directory, 1), "rb");
    size_t length = fread(inner, 1, sizeof inner, file);
    fclose(file);
    CHECK_EQUAL(length, ends[BATCHES - 1]);
    directory = fresh_directory(0);
    CHECK_EQUAL(pd_log_open(&log, directory, &one_segment, NULL), PD_OK);
    append_records(&log, 1, true);
    size_t begin = log.segments[0]->size;
    make_batch(batch, (struct item[]){{"test", NULL, inner, length}}, 1);
    memcpy(&header, batch, sizeof header);
    CHECK_EQUAL(pd_log_append(&log, &header, batch + PD_BATCH_HEADER, 1, NULL), PD_OK);
    pd_log_close(&log);
    flip_byte(segment_path(directory, 1), begin + 100, 1); /* inside the batch, header whole */
    CHECK_EQUAL(pd_log_open(&log, directory, &one_segment, NULL), PD_OK);
    CHECK_EQUAL(log.last_sequence, 1);
    CHECK_EQUAL(log.cut_bytes, header.length);
    pd_log_close(&log);
}

/* Four segments; with sync, each batch was made durable before the next. */
static uint64_t write_segments(const char *directory, bool sync, uint64_t *bases)
{
    struct pd_log log;
    CHECK_EQUAL(pd_log_open(&log, directory, &small_segments, NULL), PD_OK);
    while (log.count < 4 || log.segments[3]->size < 2000)
        append_records(&log, RECORDS, sync);
    for (int i = 0; i < 4; i++)
        bases[i] = log.segments[i]->base;
    uint64_t last = log.last_sequence;
    log.failed = !sync; /* closing then leaves everything as a dead daemon would */
    pd_log_close(&log);
    return last;
}

static void sealed_segments_are_checked_when_read(void)
{
    uint64_t bases[4];
    struct pd_log log;
    pd_error error = {""};
    const char *directory = fresh_directory(0);
    uint64_t last = write_segments(directory, true, bases);
    flip_byte(segment_path(directory, bases[1]), 700, 4);
    CHECK_EQUAL(pd_log_open(&log, directory, &small_segments, &error), PD_OK);
    CHECK_EQUAL(log.last_sequence, last);
    CHECK_EQUAL(read_all(&log, &error), PD_CORRUPTED);
    CHECK(strstr(error.text, segment_path(directory, bases[1])) != NULL);
    pd_log_close(&log);
}

/* Under records that do not wait for the disk no segment begins after durable ones, and yet only the end is read. */
static void what_was_durable_is_not_read_again(void)
{
    struct pd_log log;
    pd_error error = {""};
    const char *directory = fresh_directory(0);
    CHECK_EQUAL(pd_log_open(&log, directory, &small_segments, NULL), PD_OK);
    while (log.count < 6) {
        CHECK_EQUAL(append_records(&log, 4, false), PD_OK);
        if (log.segments[log.count - 1]->base + 7 == log.last_sequence) /* after the second batch of a segment */
            sync_log(&log);
    }
    uint64_t bases[2] = {log.segments[1]->base, log.segments[4]->base};
    uint64_t last = log.last_sequence;
    log.failed = true; /* closing then leaves everything as a dead daemon would */
    pd_log_close(&log);
    flip_byte(segment_path(directory, bases[0]), 700, 4);
    CHECK_EQUAL(pd_log_open(&log, directory, &small_segments, &error), PD_OK);
    CHECK_EQUAL(log.last_sequence, last);
    CHECK_EQUAL(read_all(&log, &error), PD_CORRUPTED);
    pd_log_close(&log);
    flip_byte(segment_path(directory, bases[1]), 700, 4); /* durable, and in the segment that was not so wholly */
    CHECK_EQUAL(pd_log_open(&log, directory, &small_segments, &error), PD_CORRUPTED);
    CHECK(strstr(error.text, segment_path(directory, bases[1])) != NULL);
}

static void a_cut_can_reach_over_segments(void)
{
    uint64_t bases[4];
    struct pd_log log;
    const char *directory = fresh_directory(0);
    write_segments(directory, false, bases);
    flip_byte(segment_path(directory, bases[1]), 700, 4); /* nothing was promised, so it is the end */
    CHECK_EQUAL(pd_log_open(&log, directory, &small_segments, NULL), PD_OK);
    CHECK(log.last_sequence >= bases[1] - 1 && log.last_sequence < bases[2]);
    CHECK_EQUAL(log.count, 2);
    CHECK(log.cut_bytes > 4096);
    CHECK_EQUAL(file_size(segment_path(directory, bases[3])), 0);
    CHECK_EQUAL(read_all(&log, NULL), PD_OK);
    CHECK_EQUAL(append_records(&log, 100, true), PD_OK);
    CHECK_EQUAL(read_all(&log, NULL), PD_OK);
    pd_log_close(&log);
}

static void a_torn_segment_under_a_durable_one_is_refused(void)
{
    uint64_t bases[4];
    struct pd_log log;
    pd_error error = {""};
    const char *directory = fresh_directory(0);
    write_segments(directory, true, bases);
    flip_byte(segment_path(directory, bases[3]), 10, 4); /* its first batch, so the one before is scanned too */
    CHECK_EQUAL(pd_log_open(&log, directory, &small_segments, &error), PD_CORRUPTED);
    CHECK(strstr(error.text, segment_path(directory, bases[3])) != NULL);
    CHECK(strstr(error.text, "offset 0 of") != NULL);
}

static void an_empty_last_segment_is_where_it_goes_on(void)
{
    uint64_t bases[4];
    struct pd_log log;
    const char *directory = fresh_directory(0);
    uint64_t last = write_segments(directory, true, bases);
    int fd = open(segment_path(directory, last + 1), O_WRONLY | O_CREAT, 0600);
    CHECK(fd >= 0 && close(fd) == 0);
    CHECK_EQUAL(pd_log_open(&log, directory, &small_segments, NULL), PD_OK);
    CHECK_EQUAL(log.last_sequence, last);
    CHECK_EQUAL(log.count, 5);
    CHECK_EQUAL(append_records(&log, 3, true), PD_OK);
    CHECK_EQUAL(read_all(&log, NULL), PD_OK);
    pd_log_close(&log);
    fd = open(segment_path(directory, last + 9), O_WRONLY | O_CREAT, 0600); /* made for records that were lost */
    CHECK(fd >= 0 && close(fd) == 0);
    CHECK_EQUAL(pd_log_open(&log, directory, &small_segments, NULL), PD_OK);
    CHECK_EQUAL(log.last_sequence, last + 3);
    CHECK_EQUAL(log.count, 5);
    pd_log_close(&log);
}

void test_recovery(void)
{
    cut_at_every_byte();
    damage_in_the_middle_is_refused();
    a_hole_in_what_was_never_synced_is_cut();
    allocated_zeros_are_no_torn_tail();
    a_payload_does_not_testify();
    sealed_segments_are_checked_when_read();
    what_was_durable_is_not_read_again();
    a_cut_can_reach_over_segments();
    a_torn_segment_under_a_durable_one_is_refused();
    an_empty_last_segment_is_where_it_goes_on();
}
