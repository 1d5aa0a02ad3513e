/* Helpers for tests over one stream of an engine: it is called "s" and captures everything. */
#ifndef STREAMS_H
#define STREAMS_H

#include "check.h"
#include "engine.h"

struct stream_rig {
    pd_engine *engine;
    int event_fd;
    uint64_t token;
    pd_error error;
    uint8_t batch[65536];
};

/* An engine with small segments (4 KiB) and the stream. */
void rig_start(struct stream_rig *rig, const char *directory, const pd_stream_config *config);

/* The same with compression by the toy: larger batches and records (1 MiB), and so much memory for what is
 * decompressed. What pd_stream_open said. */
int rig_start_packed(struct stream_rig *rig, const char *directory, uint64_t segment_size, uint64_t cache,
                     const pd_stream_config *config);

/* Files of the stream's log whose names are a sequence and the suffix; wait until they are so many. */
size_t count_files(const char *directory, const char *suffix);
bool wait_for_files(const char *directory, const char *suffix, size_t count);
void rig_configure(struct stream_rig *rig, const pd_stream_config *config);
void rig_stop(struct stream_rig *rig);

/* Append what make_numbered makes, durably; the completion, or the status of the refusal. */
pd_completion rig_append(struct stream_rig *rig, const char *subject, const char *prefix, uint32_t first,
                         uint32_t count, size_t payload);

void rig_info(struct stream_rig *rig, pd_stream_info *info);

/* The sequences that `read` gives after `after`, at most `room` of them; how many. */
size_t rig_read(struct stream_rig *rig, uint64_t after, const char *pattern, uint64_t *sequences, size_t room);

#endif
