/* Helpers for tests over one stream of an engine. */
#include "streams.h"

#include "toy.h"

#include <dirent.h>
#include <poll.h>

static const pd_options options = {
    .segment_size = 4096,
    .max_batch = 65536,
    .max_record = 4096,
    .max_pending_appends = 1 << 20,
    .max_streams = 1,
    .max_consumers = 8,
    .max_waiting_fetches = 2,
};

void rig_configure(struct stream_rig *rig, const pd_stream_config *config)
{
    const char *subject = ">";
    CHECK_EQUAL(pd_stream_open(rig->engine, "s", &subject, 1, config, &rig->error), PD_OK);
}

void rig_start(struct stream_rig *rig, const char *directory, const pd_stream_config *config)
{
    memset(rig, 0, sizeof *rig);
    CHECK_EQUAL(pd_engine_open(directory, &options, &rig->engine, &rig->event_fd, &rig->error), PD_OK);
    rig_configure(rig, config);
}

int rig_start_packed(struct stream_rig *rig, const char *directory, uint64_t segment_size, uint64_t cache,
                     const pd_stream_config *config)
{
    pd_options larger = options;
    const char *subject = ">";
    larger.segment_size = segment_size;
    larger.max_batch = larger.max_record = 1 << 20;
    larger.decompressed_cache = cache;
    larger.zstd = toy_functions();
    memset(rig, 0, sizeof *rig);
    CHECK_EQUAL(pd_engine_open(directory, &larger, &rig->engine, &rig->event_fd, &rig->error), PD_OK);
    return pd_stream_open(rig->engine, "s", &subject, 1, config, &rig->error);
}

size_t count_files(const char *directory, const char *suffix)
{
    char path[512];
    size_t found = 0;
    snprintf(path, sizeof path, "%s/s/log", directory);
    DIR *opened = opendir(path);
    for (struct dirent *entry; opened != NULL && (entry = readdir(opened)) != NULL;)
        found += strlen(entry->d_name) == 20 + strlen(suffix) && strcmp(entry->d_name + 20, suffix) == 0;
    if (opened != NULL)
        closedir(opened);
    return found;
}

bool wait_for_files(const char *directory, const char *suffix, size_t count)
{
    for (int i = 0; i < 120000 && count_files(directory, suffix) != count; i++)
        poll(NULL, 0, 1);
    return count_files(directory, suffix) == count;
}

void rig_stop(struct stream_rig *rig)
{
    pd_engine_stop(rig->engine);
    pd_engine_free(rig->engine);
}

pd_completion rig_append(struct stream_rig *rig, const char *subject, const char *prefix, uint32_t first,
                         uint32_t count, size_t payload)
{
    pd_completion completion = {.status = 999};
    size_t length = make_numbered(rig->batch, subject, prefix, first, count, payload);
    int rc = pd_append(rig->engine, "s", rig->batch, length, 2, UINT64_MAX, ++rig->token, &rig->error);
    if (rc != PD_OK)
        return (pd_completion){.status = (uint32_t)rc};
    struct pollfd wait = {.fd = rig->event_fd, .events = POLLIN};
    CHECK_EQUAL(poll(&wait, 1, 10000), 1);
    CHECK_EQUAL(pd_completions_take(rig->engine, &completion, 1), 1);
    CHECK_EQUAL(completion.token, rig->token);
    return completion;
}

void rig_info(struct stream_rig *rig, pd_stream_info *info)
{
    CHECK_EQUAL(pd_stream_info_get(rig->engine, "s", info, &rig->error), PD_OK);
}

size_t rig_read(struct stream_rig *rig, uint64_t after, const char *pattern, uint64_t *sequences, size_t room)
{
    uint8_t *block;
    size_t length;
    uint32_t records;
    CHECK_EQUAL(pd_stream_read(rig->engine, "s", after, pattern, (uint32_t)room, 1 << 24, &block, &length, &records,
                               &rig->error),
                PD_OK);
    uint32_t at = 0;
    if (block != NULL)
        memcpy(&at, block + 4, sizeof at);
    for (uint32_t i = 0; i < records; i++) {
        uint32_t size;
        memcpy(&sequences[i], block + at, sizeof sequences[i]);
        memcpy(&size, block + at + 24, sizeof size);
        at += 24 + size;
    }
    pd_block_free(block);
    return records;
}
