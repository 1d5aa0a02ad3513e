/* Writing the compressed file of one sealed segment. No lock is needed: a sealed segment's file never changes. */
#ifndef PD_PACK_H
#define PD_PACK_H

#include <stdatomic.h>

#include "base.h"
#include "packed.h"
#include "zstd_api.h"

/* zstd's level: 3 is its default, and what the bounds of a frame were measured with. */
#define PD_PACK_LEVEL 3

enum pd_packing {
    PD_PACK_DONE,
    PD_PACK_USELESS,   /* it would hardly be smaller */
    PD_PACK_CANCELLED, /* or the segment is gone */
    PD_PACK_DAMAGED,   /* the segment is not what it was; the error says where */
    PD_PACK_FAILED     /* the disk is full or fails; the error says which */
};

struct pd_pack_job {
    char source[PD_PATH_MAX]; /* BASE.seg */
    char target[PD_PATH_MAX]; /* the file to write; it is there afterwards if PD_PACK_DONE, and durable */
    uint64_t base;
    uint64_t last;
    uint64_t size;
};

/* Contexts and buffers, for one thread. */
struct pd_pack_tools {
    const struct pd_zstd *zstd;
    ZSTD_CCtx *compressor;
    ZSTD_DCtx *decompressor;
    size_t bound;
    uint8_t *frame;
    uint8_t *again;
};

int pd_pack_tools_init(struct pd_pack_tools *tools, const struct pd_zstd *zstd, pd_error *error);
void pd_pack_tools_fini(struct pd_pack_tools *tools);

/* Stops early when *cancel becomes true. */
enum pd_packing pd_pack(const struct pd_pack_job *job, struct pd_pack_tools *tools, const atomic_bool *cancel,
                        pd_error *error);

#endif
