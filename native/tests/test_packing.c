/* Compressing: what is left alone, what a full disk does, and everything else that goes on meanwhile. */
#include "streams.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>

enum { SEGMENT = 64 << 10, CACHE = 1 << 20 };

static const pd_stream_config zstd = {.compression = PD_COMPRESSION_ZSTD};
static const pd_stream_config none = {.compression = PD_COMPRESSION_NONE};

static void append_until(struct stream_rig *rig, uint64_t last)
{
    pd_stream_info info;
    for (rig_info(rig, &info); info.last_sequence < last; rig_info(rig, &info))
        CHECK_EQUAL(rig_append(rig, "a", "", 0, 50, 100).status, PD_OK);
}

static bool wait_for_advisory(struct stream_rig *rig, pd_advisory *advisory)
{
    for (int i = 0; i < 120000; i++) {
        if (pd_advisories_take(rig->engine, advisory, 1) == 1)
            return true;
        poll(NULL, 0, 1);
    }
    return false;
}

static void limit_file_size(rlim_t bytes)
{
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = bytes;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static void a_full_disk_is_told_and_tried_again(void)
{
    const char *directory = fresh_directory(0);
    struct stream_rig rig;
    pd_advisory advisory;
    uint64_t sequences[4000];
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &none), PD_OK);
    append_until(&rig, 3000);
    size_t segments = count_files(directory, ".seg");
    limit_file_size(1000);
    rig_configure(&rig, &zstd);
    CHECK(wait_for_advisory(&rig, &advisory));
    CHECK_EQUAL(advisory.kind, PD_ADVISE_COMPRESSION_FAILED);
    CHECK(strstr(advisory.detail, ".zst.new") != NULL);
    CHECK_EQUAL(count_files(directory, ".seg"), segments);
    CHECK_EQUAL(count_files(directory, ".zst.new"), 0);
    CHECK_EQUAL(rig_read(&rig, 0, ">", sequences, 4000), 3000);
    limit_file_size(RLIM_INFINITY);
    rig_configure(&rig, &zstd); /* or a minute later, or with the next segment that is sealed */
    CHECK(wait_for_files(directory, ".seg", 1));
    CHECK_EQUAL(rig_read(&rig, 0, ">", sequences, 4000), 3000);
    rig_stop(&rig);
}

/* One segment of noise, one of zeros, one that is damaged, and the newest. */
static void what_cannot_be_smaller_stays(void)
{
    const char *directory = fresh_directory(0);
    struct stream_rig rig;
    pd_advisory advisory;
    static uint8_t noise[4000];
    char path[512];
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &none), PD_OK);
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (uint8_t)random_below(256);
    while (count_files(directory, ".seg") < 2) {
        pd_completion completion;
        struct pollfd wait = {.fd = rig.event_fd, .events = POLLIN};
        size_t length = make_batch(rig.batch, (struct item[]){{"a", NULL, noise, sizeof noise}}, 1);
        CHECK_EQUAL(pd_append(rig.engine, "s", rig.batch, length, 2, UINT64_MAX, 1, &rig.error), PD_OK);
        CHECK_EQUAL(poll(&wait, 1, 30000), 1);
        CHECK_EQUAL(pd_completions_take(rig.engine, &completion, 1), 1);
    }
    while (count_files(directory, ".seg") < 4)
        CHECK_EQUAL(rig_append(&rig, "a", "", 0, 50, 100).status, PD_OK);
    uint64_t damaged = rig.engine->streams[0]->log.segments[2]->base;
    snprintf(path, sizeof path, "%s/s/log/%020llu.seg", directory, (unsigned long long)damaged);
    flip_byte(path, 20000, 1);
    rig_configure(&rig, &zstd);
    CHECK(wait_for_advisory(&rig, &advisory));
    CHECK_EQUAL(advisory.kind, PD_ADVISE_COMPRESSION_FAILED);
    CHECK(strstr(advisory.detail, "damaged") != NULL);
    CHECK_EQUAL(count_files(directory, ".seg"), 3);
    CHECK_EQUAL(count_files(directory, ".zst"), 1);
    rig_stop(&rig);
}

/* Compression that is turned off leaves what is compressed as it is, and compresses nothing more. */
static void turned_off(void)
{
    const char *directory = fresh_directory(0);
    struct stream_rig rig;
    uint64_t sequences[4000];
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &zstd), PD_OK);
    append_until(&rig, 1500);
    CHECK(wait_for_files(directory, ".seg", 1));
    size_t packed = count_files(directory, ".zst");
    CHECK(packed > 1);
    rig_configure(&rig, &none);
    append_until(&rig, 3000);
    CHECK_EQUAL(rig_read(&rig, 0, ">", sequences, 4000), 3000);
    rig_stop(&rig);
    CHECK_EQUAL(count_files(directory, ".zst"), packed);
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &none), PD_OK);
    CHECK_EQUAL(rig_read(&rig, 0, ">", sequences, 4000), 3000);
    rig_stop(&rig);
}

/* Retention counts what is on the disk. */
static void limits_count_what_is_on_the_disk(void)
{
    const char *directory = fresh_directory(0);
    struct stream_rig rig;
    pd_stream_info info;
    pd_stream_config config = {.compression = PD_COMPRESSION_ZSTD, .max_bytes = 4 * SEGMENT};
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &config), PD_OK);
    for (uint64_t last = 400; last <= 6000; last += 400) {
        append_until(&rig, last);
        CHECK(wait_for_files(directory, ".seg", 1));
    }
    rig_info(&rig, &info);
    CHECK_EQUAL(info.messages, 6000);
    CHECK(info.bytes <= 4 * SEGMENT && info.uncompressed_bytes > 8 * SEGMENT);
    rig_stop(&rig);
}

static atomic_bool ended;

static void *read_on(void *argument)
{
    struct stream_rig *rig = argument;
    while (!atomic_load(&ended)) {
        uint8_t *block;
        size_t length;
        uint32_t records;
        pd_error error;
        int rc = pd_stream_read(rig->engine, "s", random_below(2) * 700, ">", 3000, 1 << 20, &block, &length, &records,
                                &error);
        CHECK(rc == PD_OK || rc == PD_NO_STREAM);
        pd_block_free(block);
    }
    return NULL;
}

static void *change(void *argument)
{
    struct stream_rig *rig = argument;
    const char *subject = ">";
    for (int i = 0; !atomic_load(&ended); i++) {
        uint64_t removed;
        pd_error error;
        int rc = pd_stream_purge(rig->engine, "s", ">", 0, 2000, &removed, &error);
        CHECK(rc == PD_OK || rc == PD_NO_STREAM);
        rc = pd_stream_open(rig->engine, "t", &subject, 1, &zstd, &error);
        CHECK_EQUAL(rc, PD_EXISTS);
        if (i % 8 == 7)
            CHECK_EQUAL(pd_stream_open(rig->engine, "s", &subject, 1, i % 16 == 7 ? &none : &zstd, &error), PD_OK);
    }
    return NULL;
}

/* Appending, reading, purging and configuring while segments are compressed; then deleting and stopping. */
static void everything_at_once(void)
{
    const char *directory = fresh_directory(0);
    struct stream_rig rig;
    pthread_t threads[2];
    atomic_store(&ended, false);
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE / 4, &zstd), PD_OK);
    append_until(&rig, 50);
    pthread_create(&threads[0], NULL, read_on, &rig);
    pthread_create(&threads[1], NULL, change, &rig);
    append_until(&rig, 12000);
    atomic_store(&ended, true);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    append_until(&rig, 16000);
    CHECK_EQUAL(pd_stream_delete(rig.engine, "s", &rig.error), PD_OK);
    CHECK_EQUAL(count_files(directory, ".zst") + count_files(directory, ".seg"), 0);
    rig_configure(&rig, &zstd);
    append_until(&rig, 4000);
    rig_stop(&rig);
    CHECK_EQUAL(rig_start_packed(&rig, directory, SEGMENT, CACHE, &zstd), PD_OK);
    uint64_t sequences[5000];
    CHECK_EQUAL(rig_read(&rig, 0, ">", sequences, 5000), 4000);
    rig_stop(&rig);
}

void test_packing(void)
{
    a_full_disk_is_told_and_tried_again();
    what_cannot_be_smaller_stays();
    turned_off();
    limits_count_what_is_on_the_disk();
    everything_at_once();
}
