/* Helpers for tests over logs. */
#ifndef LOGS_H
#define LOGS_H

#include "check.h"
#include "log.h"
#include "reader.h"

/* Segments of 4 KiB: a few batches each. */
extern const struct pd_log_options small_segments;
extern const struct pd_log_options one_segment;

/* Append `count` records of 100 bytes as one batch; sync: make it durable, so that what follows testifies. */
int append_records(struct pd_log *log, uint32_t count, bool sync);
void sync_log(struct pd_log *log);
void drop_oldest(struct pd_log *log);

/* Read every record from the first to the last and check that its payload is its sequence. */
int read_all(const struct pd_log *log, pd_error *error);

/* The path of a segment (static memory). */
const char *segment_path(const char *directory, uint64_t base);

#endif
