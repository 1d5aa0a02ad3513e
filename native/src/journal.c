/* What a consumer has to remember.
 *
 * The file is a sequence of records of 16 bytes, little-endian:
 *
 *     0 u32 crc       CRC32C of bytes [4, 16)
 *     4 u8  kind      enum pd_journal_kind
 *     5 u8  zero
 *     6 u16 number
 *     8 u64 sequence
 *
 * The first is START with MAGIC as its sequence. A record is written before what it says is answered, with
 * write() and without a sync: it survives the death of the daemon. After the death of the machine the newest
 * records may be gone, and their deliveries come again: at least once, which is what a consumer promises.
 *
 * The first record that is not valid ends the file: it is cut there. When the file has grown beyond
 * COMPACT_SIZE, and to twice what it was after the last time, the state is written to a file beside it, which
 * is synced and renamed over it.
 */
#include "journal.h"

#include "crc32c.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC        0x31524f534e4f4344u
#define COMPACT_SIZE ((uint64_t)1 << 20)
#define ENTRY        sizeof(struct pd_journal_entry)

static_assert(sizeof(struct pd_journal_entry) == 16, "a record is 16 bytes");

static uint32_t entry_crc(const struct pd_journal_entry *entry)
{
    return pd_crc32c(0, (const uint8_t *)entry + 4, ENTRY - 4);
}

static bool write_at(int fd, const void *data, size_t length, uint64_t offset)
{
    const uint8_t *at = data;
    while (length > 0) {
        ssize_t written = pwrite(fd, at, length, (off_t)offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        at += written;
        length -= (size_t)written;
        offset += (uint64_t)written;
    }
    return true;
}

/* Replay what is valid; the number of bytes that are. */
static uint64_t replay_all(int fd, pd_journal_replay replay, void *context)
{
    struct pd_journal_entry entries[PD_JOURNAL_BUFFER];
    uint64_t valid = 0;
    for (;;) {
        ssize_t got = pread(fd, entries, sizeof entries, (off_t)valid);
        if (got < (ssize_t)ENTRY)
            return valid;
        for (size_t i = 0; i < (size_t)got / ENTRY; i++) {
            const struct pd_journal_entry *entry = &entries[i];
            if (entry_crc(entry) != entry->crc || entry->zero != 0)
                return valid;
            bool start = valid == 0;
            if (start != (entry->kind == PD_J_START) || (start && entry->sequence != MAGIC))
                return valid;
            if (!start && !replay(context, entry))
                return valid;
            valid += ENTRY;
        }
    }
}

int pd_journal_open(struct pd_journal *journal, const char *path, pd_journal_replay replay, void *context,
                    pd_error *error)
{
    *journal = (struct pd_journal){.fd = -1};
    journal->path = strdup(path);
    if (journal->path == NULL)
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for %.300s", path);
    journal->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (journal->fd < 0) {
        int rc = pd_fail_errno(error, "cannot open", path);
        pd_journal_close(journal);
        return rc;
    }
    journal->size = journal->written = replay_all(journal->fd, replay, context);
    journal->compact_at = pd_max64(COMPACT_SIZE, journal->size * 2);
    int rc = PD_OK;
    if (ftruncate(journal->fd, (off_t)journal->size) != 0)
        rc = pd_fail_errno(error, "cannot cut", path);
    if (rc == PD_OK && journal->size == 0) {
        pd_journal_add(journal, PD_J_START, 0, MAGIC);
        rc = pd_journal_commit(journal, error);
    }
    if (rc != PD_OK)
        pd_journal_close(journal);
    return rc;
}

void pd_journal_close(struct pd_journal *journal)
{
    if (journal->fd >= 0)
        close(journal->fd);
    free(journal->path);
    journal->fd = -1;
    journal->path = NULL;
}

static void flush(struct pd_journal *journal)
{
    size_t length = journal->buffered * ENTRY;
    if (journal->failed == 0 && !write_at(journal->fd, journal->buffer, length, journal->written))
        journal->failed = errno;
    journal->written += length;
    journal->buffered = 0;
}

void pd_journal_add(struct pd_journal *journal, enum pd_journal_kind kind, uint16_t number, uint64_t sequence)
{
    struct pd_journal_entry *entry = &journal->buffer[journal->buffered++];
    *entry = (struct pd_journal_entry){.kind = (uint8_t)kind, .number = number, .sequence = sequence};
    entry->crc = entry_crc(entry);
    if (journal->buffered == PD_JOURNAL_BUFFER)
        flush(journal);
}

int pd_journal_commit(struct pd_journal *journal, pd_error *error)
{
    if (journal->buffered > 0)
        flush(journal);
    if (journal->failed == 0) {
        journal->size = journal->written;
        return PD_OK;
    }
    errno = journal->failed;
    int rc = pd_fail_errno(error, "cannot write", journal->path);
    journal->failed = 0;
    journal->written = journal->size;
    /* What is left behind size is overwritten by the next change, or cut at opening if it is torn. */
    if (ftruncate(journal->fd, (off_t)journal->size) != 0)
        rc = PD_IO_ERROR;
    return rc;
}

void pd_journal_run_add(struct pd_journal *journal, enum pd_journal_kind kind, struct pd_run *run, uint64_t sequence)
{
    if (run->count > 0 && sequence == run->first + run->count && run->count < UINT16_MAX) {
        run->count++;
        return;
    }
    pd_journal_run_end(journal, kind, run);
    *run = (struct pd_run){sequence, 1};
}

void pd_journal_run_end(struct pd_journal *journal, enum pd_journal_kind kind, struct pd_run *run)
{
    if (run->count > 0)
        pd_journal_add(journal, kind, (uint16_t)run->count, run->first);
    run->count = 0;
}

bool pd_journal_wants_compaction(const struct pd_journal *journal)
{
    return journal->size > journal->compact_at;
}

int pd_journal_compact_begin(const struct pd_journal *journal, struct pd_journal *fresh, pd_error *error)
{
    char path[PD_PATH_MAX];
    snprintf(path, sizeof path, "%s.new", journal->path);
    *fresh = (struct pd_journal){.fd = -1};
    fresh->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fresh->fd < 0)
        return pd_fail_errno(error, "cannot make", path);
    fresh->path = strdup(path);
    if (fresh->path == NULL) {
        close(fresh->fd);
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for %.300s", path);
    }
    pd_journal_add(fresh, PD_J_START, 0, MAGIC);
    return PD_OK;
}

static int replace(const char *from, const char *to, int fd, pd_error *error)
{
    if (fdatasync(fd) != 0)
        return pd_fail_errno(error, "cannot sync", from);
    if (rename(from, to) != 0)
        return pd_fail_errno(error, "cannot rename", from);
    char directory[PD_PATH_MAX];
    snprintf(directory, sizeof directory, "%s", to);
    char *slash = strrchr(directory, '/');
    if (slash != NULL)
        *slash = 0;
    return pd_sync_directory(slash != NULL ? directory : ".", error);
}

int pd_journal_compact_end(struct pd_journal *journal, struct pd_journal *fresh, pd_error *error)
{
    int rc = pd_journal_commit(fresh, error);
    if (rc == PD_OK)
        rc = replace(fresh->path, journal->path, fresh->fd, error);
    if (rc != PD_OK) {
        unlink(fresh->path);
        pd_journal_close(fresh);
        journal->compact_at = journal->size * 2; /* not again at once */
        return rc;
    }
    close(journal->fd);
    journal->fd = fresh->fd;
    fresh->fd = -1;
    journal->size = journal->written = fresh->size;
    journal->compact_at = pd_max64(COMPACT_SIZE, fresh->size * 2);
    pd_journal_close(fresh);
    return PD_OK;
}
