/* The tests' tiny harness. */
#include "check.h"

#include "crc32c.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PRINTED_MAX 20

static atomic_int failures;

bool check_that(bool holds, const char *file, int line, const char *text)
{
    if (!holds && atomic_fetch_add(&failures, 1) < PRINTED_MAX)
        fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, text);
    return holds;
}

bool check_equal(unsigned long long left, unsigned long long right, const char *file, int line, const char *text)
{
    if (left != right && atomic_fetch_add(&failures, 1) < PRINTED_MAX)
        fprintf(stderr, "%s:%d: does not hold: %s (%llu and %llu)\n", file, line, text, left, right);
    return left == right;
}

int check_failures(void)
{
    return atomic_load(&failures);
}

uint32_t random_below(uint32_t below)
{
    static uint64_t state = 0x853c49e6748fea9bu;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

static int remove_one(const char *path, const struct stat *about, int flag, struct FTW *walk)
{
    (void)about;
    (void)flag;
    (void)walk;
    return remove(path);
}

void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static char directories[4][64];

static void remove_directories(void)
{
    for (int i = 0; i < 4; i++)
        if (directories[i][0] != 0)
            remove_tree(directories[i]);
}

const char *fresh_directory(int slot)
{
    static bool registered;
    if (!registered)
        atexit(remove_directories);
    registered = true;
    if (directories[slot][0] != 0)
        remove_tree(directories[slot]);
    /* In memory where that is: recovery is opened thousands of times, and syncs each time. */
    bool memory = access("/dev/shm", W_OK) == 0;
    snprintf(directories[slot], sizeof directories[slot], "%s/platformd-test-XXXXXX", memory ? "/dev/shm" : "/tmp");
    CHECK(mkdtemp(directories[slot]) != NULL);
    return directories[slot];
}

size_t file_size(const char *path)
{
    struct stat about;
    return stat(path, &about) == 0 ? (size_t)about.st_size : 0;
}

void copy_file(const char *from, const char *to)
{
    char buffer[65536];
    ssize_t got;
    int in = open(from, O_RDONLY);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(in >= 0 && out >= 0);
    while ((got = read(in, buffer, sizeof buffer)) > 0)
        CHECK(write(out, buffer, (size_t)got) == got);
    close(in);
    close(out);
}

void flip_byte(const char *path, size_t offset, uint8_t mask)
{
    uint8_t byte = 0;
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0 && pread(fd, &byte, 1, (off_t)offset) == 1);
    byte ^= mask;
    CHECK(pwrite(fd, &byte, 1, (off_t)offset) == 1);
    close(fd);
}

void seal_batch(uint8_t *batch)
{
    struct pd_batch_header header;
    memcpy(&header, batch, sizeof header);
    header.body_crc = pd_crc32c(0, batch + PD_BATCH_BODY, header.length - PD_BATCH_BODY);
    memcpy(batch, &header, sizeof header);
}

static uint16_t subject_of(const struct item *items, size_t index, const char **subjects, uint16_t *count)
{
    for (uint16_t i = 0; i < *count; i++)
        if (strcmp(subjects[i], items[index].subject) == 0)
            return i;
    subjects[*count] = items[index].subject;
    return (*count)++;
}

size_t make_batch(uint8_t *out, const struct item *items, size_t count)
{
    const char *subjects[64];
    struct pd_batch_header header = {.magic = PD_BATCH_MAGIC, .record_count = (uint32_t)count};
    for (size_t i = 0; i < count; i++)
        subject_of(items, i, subjects, &header.subject_count);
    size_t at = PD_BATCH_HEADER;
    for (uint16_t i = 0; i < header.subject_count; i++) {
        out[at++] = (uint8_t)strlen(subjects[i]);
        memcpy(out + at, subjects[i], strlen(subjects[i]));
        at += strlen(subjects[i]);
    }
    header.records_offset = (uint32_t)pd_align8(at);
    memset(out + at, 0, header.records_offset - at);
    at = header.records_offset;
    for (size_t i = 0; i < count; i++) {
        size_t id = items[i].id != NULL ? strlen(items[i].id) : 0;
        size_t used = PD_RECORD_HEADER + id + items[i].payload_length;
        struct pd_record record = {
            .length = (uint32_t)pd_align8(used),
            .subject = subject_of(items, i, subjects, &header.subject_count),
            .id_length = (uint16_t)id,
            .payload_length = (uint32_t)items[i].payload_length,
            .time_ns = 1000 + i,
        };
        memcpy(out + at, &record, sizeof record);
        if (id > 0)
            memcpy(out + at + PD_RECORD_HEADER, items[i].id, id);
        if (items[i].payload_length > 0)
            memcpy(out + at + PD_RECORD_HEADER + id, items[i].payload, items[i].payload_length);
        memset(out + at + used, 0, record.length - used);
        at += record.length;
    }
    header.length = (uint32_t)at;
    memcpy(out, &header, sizeof header);
    seal_batch(out);
    return at;
}

size_t make_numbered(uint8_t *out, const char *subject, const char *prefix, uint32_t first, uint32_t count,
                     size_t payload_length)
{
    struct item *items = calloc(count, sizeof *items);
    char(*ids)[32] = calloc(count, sizeof *ids);
    uint8_t *payload = calloc(1, payload_length + 1);
    for (uint32_t i = 0; i < count; i++) {
        snprintf(ids[i], sizeof ids[i], "%s-%u", prefix, first + i);
        items[i] = (struct item){subject, *prefix != 0 ? ids[i] : NULL, payload, payload_length};
    }
    size_t length = make_batch(out, items, count);
    free(items);
    free(ids);
    free(payload);
    return length;
}
