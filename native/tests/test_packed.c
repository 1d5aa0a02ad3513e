/* Compressed segments: what is read is what was appended, the memory is bounded, damage is named, and a crash at any
 * step of compressing leaves a log that is whole. */
#include "streams.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SEGMENT = 1 << 20, CACHE = 2 << 18 };

static const pd_stream_config zstd = {.compression = PD_COMPRESSION_ZSTD};
static const pd_stream_config none = {.compression = PD_COMPRESSION_NONE};

/* A payload that anybody can make again: runs and noise, and as long as its number says. */
static size_t make_payload(uint64_t number, uint8_t *out, size_t most)
{
    uint64_t state = number * 0x9e3779b97f4a7c15u + 1;
    size_t length = (size_t)(state >> 20) % most;
    for (size_t i = 0; i < length; i++) {
        if (i % 64 == 0)
            state = state * 6364136223846793005u + 1442695040888963407u;
        out[i] = i % 64 < 8 ? (uint8_t)(state >> (i % 8 * 8)) : (uint8_t)(number & 0xff);
    }
    return length;
}

static const char *const subjects[] = {"a", "b.c", "b.d"};

static size_t payload_limit(uint64_t number)
{
    return number % 97 == 0 ? 700000 : 3000;
}

/* Append records until the stream has `last` of them, in batches of several sizes, durably. */
static void append_to(struct stream_rig *rig, uint64_t last, bool ids)
{
    static uint8_t batch[1 << 20];
    static uint8_t payloads[8][700000];
    pd_stream_info info;
    rig_info(rig, &info);
    for (uint64_t next = info.last_sequence + 1; next <= last;) {
        struct item items[8];
        char names[8][24];
        size_t total = 0;
        size_t count = 0;
        for (; count < 1 + next % 8 && next + count <= last && total < 250000; count++) {
            size_t length = make_payload(next + count, payloads[count], payload_limit(next + count));
            snprintf(names[count], sizeof names[count], "id-%llu", (unsigned long long)(next + count));
            items[count] =
                (struct item){subjects[(next + count) % 3], ids ? names[count] : NULL, payloads[count], length};
            total += length;
        }
        pd_completion completion;
        struct pollfd wait = {.fd = rig->event_fd, .events = POLLIN};
        size_t length = make_batch(batch, items, count);
        CHECK_EQUAL(pd_append(rig->engine, "s", batch, length, 2, UINT64_MAX, 1, &rig->error), PD_OK);
        CHECK_EQUAL(poll(&wait, 1, 30000), 1);
        CHECK_EQUAL(pd_completions_take(rig->engine, &completion, 1), 1);
        CHECK_EQUAL(completion.first_sequence, next);
        next += count;
    }
}

/* The records of a block are those that were appended; the last sequence of it. */
static uint64_t check_block(const uint8_t *block, uint32_t records, uint64_t after)
{
    static uint8_t expected[700000];
    uint32_t at = 0;
    memcpy(&at, block + 4, sizeof at);
    for (uint32_t i = 0; i < records; i++) {
        uint64_t sequence;
        struct pd_record record;
        memcpy(&sequence, block + at, sizeof sequence);
        memcpy(&record, block + at + 24, sizeof record);
        size_t length = make_payload(sequence, expected, payload_limit(sequence));
        CHECK(sequence > after);
        CHECK_EQUAL(record.payload_length, length);
        if (record.payload_length == length)
            CHECK(memcmp(block + at + 24 + PD_RECORD_HEADER + record.id_length, expected, length) == 0);
        at += 24 + record.length;
        after = sequence;
    }
    return after;
}

/* Read everything behind `after`; how many records there were. PD_CORRUPTED ends it. */
static uint64_t read_rest(struct stream_rig *rig, uint64_t after, const char *pattern, uint32_t step, int *status)
{
    uint64_t found = 0;
    for (;;) {
        uint8_t *block;
        size_t length;
        uint32_t records;
        *status =
            pd_stream_read(rig->engine, "s", after, pattern, step, 4 << 20, &block, &length, &records, &rig->error);
        if (*status != PD_OK || records == 0)
            return found;
        after = check_block(block, records, after);
        pd_block_free(block);
        found += records;
        CHECK(atomic_load(&rig->engine->frames.bytes) <= CACHE);
    }
}

static uint64_t read_all_of(struct stream_rig *rig, const char *pattern)
{
    int status;
    uint64_t found = read_rest(rig, 0, pattern, 100, &status);
    CHECK_EQUAL(status, PD_OK);
    return found;
}

/* A stream of `last` records whose sealed segments are all compressed; stopped. How many these are. */
static size_t write_packed(const char *directory, uint64_t last, bool ids)
{
    struct stream_rig rig;
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &zstd), PD_OK);
    append_to(&rig, last, ids);
    CHECK(wait_for_files(directory, ".seg", 1));
    rig_stop(&rig);
    CHECK_EQUAL(count_files(directory, ".seg"), 1);
    CHECK_EQUAL(count_files(directory, ".zst.new"), 0);
    return count_files(directory, ".zst");
}

static void what_is_read_is_what_was_appended(void)
{
    const char *directory = fresh_directory(0);
    struct stream_rig rig;
    pd_stream_info info;
    size_t packed = write_packed(directory, 2000, true);
    CHECK(packed >= 3);
    for (int round = 0; round < 2; round++) {
        int status;
        CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &zstd), PD_OK);
        rig_info(&rig, &info);
        CHECK_EQUAL(info.last_sequence, 2000 + (uint64_t)round);
        CHECK_EQUAL(info.messages, 2000 + (uint64_t)round);
        CHECK_EQUAL(info.cut_bytes, 0);
        CHECK(info.bytes < info.uncompressed_bytes / 2);
        CHECK_EQUAL(read_all_of(&rig, ">"), 2000 + round);
        CHECK_EQUAL(read_all_of(&rig, "b.*") + read_all_of(&rig, "a"), 2000 + round);
        for (uint64_t after = 1999; after < 2000; after -= 37) /* backwards, and one by one */
            CHECK_EQUAL(read_rest(&rig, after, ">", 1000000, &status), 2000 + (uint64_t)round - after);
        append_to(&rig, 2001 + (uint64_t)round, true);
        rig_stop(&rig);
    }
    CHECK_EQUAL(count_files(directory, ".zst"), packed);
}

/* Every start by a sequence or a time is the same as before the segments were compressed. */
static void starts_are_where_they_were(void)
{
    const char *directory = fresh_directory(0);
    struct stream_rig rig;
    uint64_t first;
    uint64_t before[60];
    uint64_t times[60];
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &none), PD_OK);
    append_to(&rig, 1200, false);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < 60; i++) {
            uint8_t *block;
            size_t length;
            uint32_t records;
            uint32_t at;
            CHECK_EQUAL(pd_stream_read(rig.engine, "s", i * 20, ">", 1, 1, &block, &length, &records, NULL), PD_OK);
            memcpy(&at, block + 4, sizeof at);
            memcpy(&times[i], block + at + 8, sizeof times[i]);
            pd_block_free(block);
            pd_start start = {.policy = 5, .time_ns = times[i]};
            CHECK_EQUAL(pd_consumer_start(rig.engine, "s", ">", &start, &first, NULL), PD_OK);
            CHECK(round == 0 || first == before[i]);
            before[i] = first;
        }
        pd_start last = {.policy = 2};
        CHECK_EQUAL(pd_consumer_start(rig.engine, "s", "b.d", &last, &first, NULL), PD_OK);
        CHECK_EQUAL(first, 1199);
        if (round > 0)
            break;
        rig_configure(&rig, &zstd); /* old segments, too */
        CHECK(wait_for_files(directory, ".seg", 1));
    }
    rig_stop(&rig);
}

static void ids_are_known_after_a_restart(void)
{
    const char *directory = fresh_directory(0);
    struct stream_rig rig;
    pd_stream_config config = {.compression = PD_COMPRESSION_ZSTD,
                               .duplicate_window_ns = UINT64_C(86400000000000),
                               .duplicate_limit = 1 << 20};
    write_packed(directory, 1500, true);
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &config), PD_OK);
    for (uint32_t i = 1; i <= 1500; i += 7) {
        pd_completion completion = rig_append(&rig, subjects[i % 3], "id", i, 1, 10);
        CHECK_EQUAL(completion.duplicates, 1);
    }
    CHECK(atomic_load(&rig.engine->frames.bytes) <= CACHE);
    rig_stop(&rig);
}

static void what_is_erased_stays_erased(void)
{
    const char *directory = fresh_directory(0);
    struct stream_rig rig;
    uint64_t removed;
    write_packed(directory, 1500, false);
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &zstd), PD_OK);
    CHECK_EQUAL(pd_stream_purge(rig.engine, "s", "b.c", 0, 0, &removed, &rig.error), PD_OK);
    CHECK_EQUAL(removed, 500);
    CHECK_EQUAL(read_all_of(&rig, ">"), 1000);
    rig_stop(&rig);
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &zstd), PD_OK);
    CHECK_EQUAL(read_all_of(&rig, ">"), 1000);
    size_t before = count_files(directory, ".zst");
    CHECK_EQUAL(pd_stream_purge(rig.engine, "s", ">", 700, 0, &removed, &rig.error), PD_OK);
    CHECK(count_files(directory, ".zst") < before);
    CHECK_EQUAL(read_all_of(&rig, ">"), 534);
    CHECK_EQUAL(pd_stream_purge(rig.engine, "s", ">", 0, 0, &removed, &rig.error), PD_OK);
    CHECK_EQUAL(count_files(directory, ".zst"), 0);
    rig_stop(&rig);
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &zstd), PD_OK);
    CHECK_EQUAL(read_all_of(&rig, ">"), 0);
    rig_stop(&rig);
}

/* The first compressed segment's path (static memory). */
static const char *first_packed(const char *directory)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/s/log/%020d.zst", directory, 1);
    return path;
}

static void damage_is_named(void)
{
    const char *directory = fresh_directory(0);
    char copy[512];
    write_packed(directory, 700, false);
    const char *path = first_packed(directory);
    size_t size = file_size(path);
    snprintf(copy, sizeof copy, "%s/whole", fresh_directory(1));
    copy_file(path, copy);
    for (size_t at = 0; at < size; at += at < 80 || at > size - 200 ? 3 : size / 40) {
        struct stream_rig rig;
        int status;
        flip_byte(path, at, (uint8_t)(1u << random_below(8)));
        status = rig_start_packed(&rig, directory, SEGMENT, CACHE, &zstd);
        CHECK_EQUAL(status == PD_OK, at >= 80);
        if (status == PD_OK)
            read_rest(&rig, 0, ">", 100, &status);
        CHECK_EQUAL(status, PD_CORRUPTED);
        CHECK(strstr(rig.error.text, path) != NULL && strstr(rig.error.text, "offset ") != NULL);
        rig_stop(&rig);
        copy_file(copy, path);
    }
    CHECK(truncate(path, (off_t)size - 8) == 0);
    struct stream_rig rig;
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &zstd), PD_CORRUPTED);
    rig_stop(&rig);
}

/* What kill -9 or a power failure leaves at each step. */
static void a_crash_leaves_a_whole_log(void)
{
    const char *directory = fresh_directory(0);
    char kept[512];
    char plain[512];
    struct stream_rig rig;
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &none), PD_OK);
    append_to(&rig, 700, false);
    snprintf(kept, sizeof kept, "%s/kept", fresh_directory(1));
    snprintf(plain, sizeof plain, "%s/s/log/%020d.seg", directory, 1);
    copy_file(plain, kept);
    rig_configure(&rig, &zstd);
    CHECK(wait_for_files(directory, ".seg", 1));
    size_t packed = count_files(directory, ".zst");
    rig_stop(&rig);
    copy_file(kept, plain); /* renamed, the original not removed yet */
    char half[600];
    snprintf(half, sizeof half, "%s/s/log/%020d.zst.new", directory, 700);
    copy_file(kept, half); /* and another one half-written */
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &none), PD_OK);
    CHECK_EQUAL(count_files(directory, ".zst"), packed - 1);
    CHECK_EQUAL(count_files(directory, ".zst.new"), 0);
    CHECK_EQUAL(read_all_of(&rig, ">"), 700);
    pd_stream_info info;
    rig_info(&rig, &info);
    append_to(&rig, 701, false);
    rig_stop(&rig);
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &zstd), PD_OK);
    CHECK(wait_for_files(directory, ".seg", 1));
    CHECK_EQUAL(read_all_of(&rig, ">"), 701);
    rig_stop(&rig);
    CHECK_EQUAL(count_files(directory, ".zst"), packed);
}

/* The machine may forget the newest file's name with all that was in it, when nobody was promised any of that. */
static void the_newest_file_may_be_a_compressed_one(void)
{
    const char *directory = fresh_directory(0);
    struct stream_rig rig;
    pd_stream_info info;
    write_packed(directory, 700, false);
    char command[600];
    snprintf(command, sizeof command, "rm %s/s/log/*.seg", directory);
    CHECK_EQUAL(system(command), 0);
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &zstd), PD_OK);
    rig_info(&rig, &info);
    CHECK(info.last_sequence > 100 && info.last_sequence < 700);
    CHECK_EQUAL(read_all_of(&rig, ">"), info.last_sequence);
    append_to(&rig, info.last_sequence + 10, false);
    CHECK_EQUAL(read_all_of(&rig, ">"), info.last_sequence + 10);
    rig_stop(&rig);
}

static void nothing_is_read_without_zstd(void)
{
    const char *directory = fresh_directory(0);
    const pd_options plain = {SEGMENT, 1 << 20, 1 << 20, 1 << 20, 1, 1, 1, CACHE, NULL};
    const char *subject = ">";
    pd_engine *engine;
    int event_fd;
    pd_error error;
    write_packed(directory, 700, false);
    CHECK_EQUAL(pd_engine_open(directory, &plain, &engine, &event_fd, &error), PD_OK);
    CHECK_EQUAL(pd_stream_open(engine, "s", &subject, 1, &none, &error), PD_INVALID);
    CHECK(strstr(error.text, "zstd is not here") != NULL);
    CHECK_EQUAL(pd_stream_open(engine, "s", &subject, 1, &zstd, &error), PD_INVALID);
    pd_engine_stop(engine);
    pd_engine_free(engine);
}

void test_packed(void)
{
    what_is_read_is_what_was_appended();
    starts_are_where_they_were();
    ids_are_known_after_a_restart();
    what_is_erased_stays_erased();
    damage_is_named();
    a_crash_leaves_a_whole_log();
    the_newest_file_may_be_a_compressed_one();
    nothing_is_read_without_zstd();
}
