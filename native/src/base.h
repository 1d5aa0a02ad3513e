/* What every file of the engine uses: errors, clocks, alignment, spans. */
#ifndef PD_BASE_H
#define PD_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "platformd.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the formats are little-endian and are read in place"
#endif

/* Streams and consumers: [A-Za-z0-9._-], no leading dot. */
#define PD_NAME_MAX 63
#define PD_PATH_MAX 4096

/* Bytes of something that lives elsewhere. */
struct pd_span {
    const uint8_t *data;
    uint32_t length;
};

/* Write the sentence into error (which may be NULL) and return status. */
int pd_fail(pd_error *error, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same for a system call that set errno: a full disk is PD_STORAGE_FULL, all else PD_IO_ERROR. */
int pd_fail_errno(pd_error *error, const char *what, const char *path);

/* Whether name is one of a stream or a consumer. */
bool pd_name_valid(const char *name, size_t length);

/* Nanoseconds since 1970, and of a clock that never jumps. */
uint64_t pd_wall_ns(void);
uint64_t pd_mono_ns(void);

/* Make a directory; that it is there already is fine. */
int pd_make_directory(const char *path, pd_error *error);

/* Make what was created, renamed or removed in a directory durable. */
int pd_sync_directory(const char *path, pd_error *error);

static inline size_t pd_align8(size_t length)
{
    return (length + 7) & ~(size_t)7;
}

static inline uint64_t pd_min64(uint64_t left, uint64_t right)
{
    return left < right ? left : right;
}

static inline uint64_t pd_max64(uint64_t left, uint64_t right)
{
    return left > right ? left : right;
}

/* a + b without wrapping: deadlines far away are "never". */
static inline uint64_t pd_add_saturating(uint64_t a, uint64_t b)
{
    return a + b < a ? UINT64_MAX : a + b;
}

/* Make room for `needed` items in a growing array (doubling); false when there is no memory. */
bool pd_reserve(void **items, size_t *capacity, size_t needed, size_t item_size);

#endif
