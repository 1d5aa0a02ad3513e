/* For libFuzzer: whatever the files of a log are, opening it and reading it touches nothing that is not its own; and
 * when it opens, it opens again as the same log, and takes records.
 *
 * The input is pieces: kind, base, two bytes of length, and so many bytes of a file. Kind 0 is a segment, 1 a
 * compressed one, 2 what is left of compressing, 3 the journal of erasures; 4 is added when its checksums are to be
 * made right first, since no mutation would. */
#include "batch.h"
#include "crc32c.h"
#include "erasure.h"
#include "log.h"
#include "packed.h"
#include "reader.h"
#include "toy.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define RECORDS 1000 /* that a batch may claim: what is counted is looked at one by one */

enum kind { SEGMENT, PACKED, LEFT, ERASED };

static char directory[64];
static struct pd_frame_pool pool;
static const struct pd_log_options options = {.segment_size = 4096, .max_batch = 65536, .pool = &pool};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void empty(void)
{
    DIR *opened = opendir(directory);
    for (struct dirent *entry; (entry = readdir(opened)) != NULL;)
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(opened), entry->d_name, 0);
    closedir(opened);
}

static void remove_all(void)
{
    empty();
    rmdir(directory);
    pd_pool_fini(&pool);
}

static void begin(void)
{
    bool memory = access("/dev/shm", W_OK) == 0;
    if (directory[0] != 0) {
        empty();
        return;
    }
    snprintf(directory, sizeof directory, "%s/platformd-fuzz-XXXXXX", memory ? "/dev/shm" : "/tmp");
    if (mkdtemp(directory) == NULL || pd_pool_init(&pool, toy_functions(), 2 * PD_FRAME_SIZE, NULL) != PD_OK)
        abort();
    atexit(remove_all);
}

/* Every batch from `at` on whose length fits. */
static void fix_batches(uint8_t *at, size_t left)
{
    struct pd_batch_header header;
    while (left >= PD_BATCH_HEADER) {
        memcpy(&header, at, sizeof header);
        if (header.length < PD_BATCH_HEADER || header.length > left)
            return;
        header.record_count %= RECORDS;
        memcpy(at, &header, sizeof header);
        header.body_crc = pd_crc32c(0, at + PD_BATCH_BODY, header.length - PD_BATCH_BODY);
        pd_batch_stamp(&header);
        memcpy(at, &header, sizeof header);
        at += header.length;
        left -= header.length;
    }
}

static void fix_packed(uint8_t *data, size_t length)
{
    struct pd_packed_header header;
    if (length < sizeof header)
        return;
    memcpy(&header, data, sizeof header);
    uint64_t index = (uint64_t)header.frame_count * PD_PACKED_ENTRY;
    header.last_sequence = header.base_sequence + header.last_sequence % RECORDS;
    if (index <= length - sizeof header) {
        uint8_t *entries = data + length - index;
        for (uint32_t i = 0; i < header.frame_count; i++) {
            struct pd_packed_entry entry;
            memcpy(&entry, entries + i * sizeof entry, sizeof entry);
            if (entry.offset <= length && entry.length <= length - entry.offset)
                entry.crc = pd_crc32c(0, data + entry.offset, entry.length);
            memcpy(entries + i * sizeof entry, &entry, sizeof entry);
        }
        header.index_crc = pd_crc32c(0, entries, index);
    }
    header.header_crc = pd_packed_header_crc(&header);
    memcpy(data, &header, sizeof header);
}

static void fix_journal(uint8_t *data, size_t length)
{
    for (size_t at = 0; at + 16 <= length; at += 16) { /* as the head of journal.c says */
        uint32_t crc = pd_crc32c(0, data + at + 4, 12);
        memcpy(data + at, &crc, sizeof crc);
    }
}

static void write_file(uint8_t kind, uint8_t base, const uint8_t *data, size_t length)
{
    static const char *const suffixes[] = {PD_PLAIN, PD_PACKED, PD_PACKED PD_NEW, NULL};
    char path[PD_PATH_MAX];
    uint8_t *copy = malloc(length + 1);
    memcpy(copy, data, length);
    if (kind >= 4 && kind % 4 == SEGMENT)
        fix_batches(copy, length);
    if (kind >= 4 && kind % 4 == PACKED)
        fix_packed(copy, length);
    if (kind >= 4 && kind % 4 == ERASED)
        fix_journal(copy, length);
    snprintf(path, sizeof path, "%s/erased", directory);
    if (kind % 4 != ERASED)
        pd_segment_path(path, directory, base, suffixes[kind % 4]);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, copy, length) != (ssize_t)length)
        abort();
    close(fd);
    free(copy);
}

/* Some records from each end, whatever comes of it. */
static void read_some(struct pd_log *log)
{
    struct pd_reader reader = {0};
    uint64_t at = pd_log_next_kept(log, 1);
    for (int i = 0; i < 200 && at <= log->last_sequence; i++) {
        if (pd_reader_seek(&reader, log, at, NULL) == PD_OK) {
            volatile uint8_t last = pd_reader_record(&reader)[reader.record.length - 1];
            (void)last;
        }
        at = pd_log_next_kept(log, at + 1);
    }
    for (size_t i = 0; i < log->count; i++) {
        uint64_t offset;
        if (log->segments[i]->size > 0 && log->segments[i]->last >= log->segments[i]->base)
            pd_segment_find(log->segments[i], log->segments[i]->last, &offset, NULL);
    }
    pd_frames_rest(&log->frames);
    if (atomic_load(&pool.bytes) > pool.limit)
        abort();
}

static void append_one(struct pd_log *log)
{
    static uint8_t batch[PD_BATCH_HEADER + 8 + PD_RECORD_HEADER];
    struct pd_batch_header header = {
        .magic = PD_BATCH_MAGIC,
        .length = sizeof batch,
        .subject_count = 1,
        .record_count = 1,
        .records_offset = PD_BATCH_HEADER + 8,
    };
    struct pd_record record = {.length = PD_RECORD_HEADER};
    struct pd_log_sync sync;
    memcpy(batch + PD_BATCH_HEADER, "\1a", 2);
    memcpy(batch + PD_BATCH_HEADER + 8, &record, sizeof record);
    memcpy(batch, &header, sizeof header);
    header.body_crc = pd_crc32c(0, batch + PD_BATCH_BODY, sizeof batch - PD_BATCH_BODY);
    if (pd_log_append(log, &header, batch + PD_BATCH_HEADER, 1, NULL) != PD_OK)
        abort();
    pd_log_sync_begin(log, &sync);
    pd_log_sync_end(log, &sync, pd_log_sync_run(&sync, NULL));
}

static void open_again(struct pd_log *log, uint64_t last, uint64_t kept)
{
    pd_error error = {""};
    int rc = pd_log_open(log, directory, &options, &error);
    if (rc == PD_OK && log->last_sequence == last && log->kept == kept)
        return;
    fprintf(stderr, "it had %llu records up to %llu; now: %s, %llu up to %llu\n", (unsigned long long)kept,
            (unsigned long long)last, error.text, (unsigned long long)log->kept,
            (unsigned long long)log->last_sequence);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pd_log log;
    begin();
    for (int pieces = 0; size >= 4 && pieces < 6; pieces++) {
        size_t length = (size_t)data[2] | (size_t)data[3] << 8;
        length = length < size - 4 ? length : size - 4;
        write_file(data[0] % 8, data[1], data + 4, length);
        data += 4 + length;
        size -= 4 + length;
    }
    if (pd_log_open(&log, directory, &options, NULL) != PD_OK)
        return 0;
    uint64_t last = log.last_sequence;
    uint64_t kept = log.kept;
    read_some(&log);
    pd_log_close(&log);
    open_again(&log, last, kept);
    append_one(&log);
    pd_log_close(&log);
    open_again(&log, last + 1, kept + 1);
    read_some(&log);
    pd_log_close(&log);
    return 0;
}
