/* How fast the engine takes records, and what the device gives it. From the repository's top:
 *
 *   cc -std=c11 -D_GNU_SOURCE -O2 -pthread -Inative/src native/bench/append.c native/src/[a-z]*.c -o /tmp/append
 *   /tmp/append [directory [seconds]]
 *
 * Rows: fdatasync of the device after 4 KiB and 64 KiB; then batches of 64 KiB of 128-byte records through
 * pd_append, with each durability and with a number of batches under way, answered over the completion ring;
 * then the same records fetched and acknowledged. */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base.h"
#include "batch.h"
#include "crc32c.h"

enum { BATCH = 65536, PAYLOAD = 128, SYNCS = 400 };

static pd_engine *engine;
static int event_fd;
static uint8_t batch[BATCH];
static size_t batch_length;
static uint32_t batch_records;

static int ascending(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left;
    uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static void measure_device(const char *directory, size_t length)
{
    static uint64_t took[SYNCS];
    char path[512];
    snprintf(path, sizeof path, "%s/device", directory);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || fallocate(fd, 0, 0, (off_t)(length * SYNCS)) != 0)
        exit(1);
    for (size_t i = 0; i < SYNCS; i++) {
        uint64_t begin = pd_mono_ns();
        if (pwrite(fd, batch, length, (off_t)(i * length)) != (ssize_t)length || fdatasync(fd) != 0)
            exit(1);
        took[i] = pd_mono_ns() - begin;
    }
    close(fd);
    unlink(path);
    qsort(took, SYNCS, sizeof *took, ascending);
    printf("fdatasync after %zu KiB, allocated: p50 %.3f ms, p99 %.3f ms\n", length >> 10,
           (double)took[SYNCS / 2] / 1e6, (double)took[SYNCS * 99 / 100] / 1e6);
}

static void make_batch(void)
{
    struct pd_batch_header header = {.magic = PD_BATCH_MAGIC, .subject_count = 1, .records_offset = 72};
    struct pd_record record = {.length = PD_RECORD_HEADER + PAYLOAD, .payload_length = PAYLOAD};
    memcpy(batch + 64, "\005bench", 6);
    size_t at = 72;
    for (; at + record.length <= BATCH; at += record.length, header.record_count++)
        memcpy(batch + at, &record, sizeof record);
    header.length = (uint32_t)at;
    memcpy(batch, &header, sizeof header);
    header.body_crc = pd_crc32c(0, batch + PD_BATCH_BODY, at - PD_BATCH_BODY);
    memcpy(batch, &header, sizeof header);
    batch_length = at;
    batch_records = header.record_count;
}

/* Take what is finished; wait for something first. */
static unsigned finished(void)
{
    pd_completion done[256];
    struct pollfd wait = {.fd = event_fd, .events = POLLIN};
    poll(&wait, 1, -1);
    unsigned count = (unsigned)pd_completions_take(engine, done, 256);
    for (unsigned i = 0; i < count; i++)
        if (done[i].status != PD_OK)
            exit(1);
    return count;
}

static void measure_append(uint32_t durability, unsigned in_flight, double seconds)
{
    static const char *const names[] = {"memory", "os", "fsync"};
    pd_error error;
    pd_statistics before;
    pd_statistics after;
    uint64_t begin = pd_mono_ns();
    uint64_t until = begin + (uint64_t)(seconds * 1e9);
    uint64_t batches = 0;
    unsigned flying = 0;
    pd_engine_statistics(engine, &before);
    while (pd_mono_ns() < until || flying > 0) {
        while (flying < in_flight && pd_mono_ns() < until) {
            if (pd_append(engine, "bench", batch, batch_length, durability, UINT64_MAX, 1, &error) != PD_OK) {
                fprintf(stderr, "%s\n", error.text);
                exit(1);
            }
            flying++;
            batches++;
        }
        flying -= finished();
    }
    double took = (double)(pd_mono_ns() - begin) / 1e9;
    pd_engine_statistics(engine, &after);
    printf("append %s, %u batches under way: %.2f M records/s, %.0f MiB/s, %.0f syncs/s\n", names[durability],
           in_flight, (double)batches * batch_records / took / 1e6,
           (double)batches * (double)batch_length / took / 1048576, (double)(after.syncs - before.syncs) / took);
}

static void measure_fetch(double seconds)
{
    const pd_consumer_config config = {.start_sequence = 1, .ack_wait_ns = 1u << 30, .max_ack_pending = 16384};
    static pd_ack acks[16384];
    pd_error error;
    uint64_t records = 0;
    if (pd_consumer_open(engine, "bench", "c", ">", &config, &error) != PD_OK)
        exit(1);
    uint64_t begin = pd_mono_ns();
    while (pd_mono_ns() < begin + (uint64_t)(seconds * 1e9)) {
        uint8_t *block;
        size_t length;
        uint32_t got;
        uint32_t known;
        if (pd_consumer_fetch(engine, "bench", "c", 8192, 1 << 20, &block, &length, &got, &error) != PD_OK)
            exit(1);
        if (got == 0)
            break;
        const uint8_t *at = block + 16; /* the head and one subject */
        for (uint32_t i = 0; i < got; i++, at += 24 + PD_RECORD_HEADER + PAYLOAD)
            memcpy(&acks[i].sequence, at, sizeof acks[i].sequence);
        pd_consumer_ack(engine, "bench", "c", acks, got, NULL, 0, &known, &error);
        if (known != got)
            exit(1);
        pd_block_free(block);
        records += got;
    }
    double took = (double)(pd_mono_ns() - begin) / 1e9;
    printf("fetch of 1 MiB and ack: %.2f M records/s\n", (double)records / took / 1e6);
}

int main(int count, char **arguments)
{
    const char *directory = count > 1 ? arguments[1] : "/var/tmp/platformd-bench";
    double seconds = count > 2 ? atof(arguments[2]) : 2.0;
    const pd_options options = {64u << 20, 16u << 20, 8u << 20, 64u << 20, 4, 4, 4, 0, NULL};
    const pd_stream_config config = {.max_bytes = (uint64_t)2 << 30, .duplicate_window_ns = 0};
    const char *subject = "bench";
    pd_error error;
    pd_make_directory(directory, NULL);
    make_batch();
    measure_device(directory, 4096);
    measure_device(directory, 65536);
    if (pd_engine_open(directory, &options, &engine, &event_fd, &error) != PD_OK ||
        pd_stream_open(engine, "bench", &subject, 1, &config, &error) != PD_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    measure_append(2, 1, seconds);
    measure_append(2, 8, seconds);
    measure_append(2, 64, seconds);
    measure_append(1, 8, seconds);
    measure_fetch(seconds);
    pd_stream_delete(engine, "bench", &error);
    pd_engine_stop(engine);
    pd_engine_free(engine);
    return 0;
}
