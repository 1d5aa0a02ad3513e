/* A set of small numbers, one bit for each. What lies beyond its words is not in it. */
#include "bitmap.h"

#include <stdlib.h>

void pd_bitmap_fini(struct pd_bitmap *bitmap)
{
    free(bitmap->words);
    *bitmap = (struct pd_bitmap){0};
}

bool pd_bitmap_reserve(struct pd_bitmap *bitmap, uint64_t end)
{
    size_t before = bitmap->capacity;
    if (!pd_reserve((void **)&bitmap->words, &bitmap->capacity, (size_t)((end + 63) / 64), sizeof *bitmap->words))
        return false;
    if (bitmap->capacity > before)
        memset(bitmap->words + before, 0, (bitmap->capacity - before) * sizeof *bitmap->words);
    return true;
}

/* The bits of word `at` that are from `from` to below `end`. */
static uint64_t mask(uint64_t at, uint64_t from, uint64_t end)
{
    uint64_t low = at * 64 < from ? ~(uint64_t)0 << (from - at * 64) : ~(uint64_t)0;
    uint64_t left = end - at * 64;
    return left < 64 ? low & (((uint64_t)1 << left) - 1) : low;
}

uint64_t pd_bitmap_set(struct pd_bitmap *bitmap, uint64_t from, uint64_t end)
{
    uint64_t fresh = 0;
    for (uint64_t at = from / 64; at * 64 < end; at++) {
        uint64_t bits = mask(at, from, end) & ~bitmap->words[at];
        bitmap->words[at] |= bits;
        fresh += (uint64_t)__builtin_popcountll(bits);
    }
    bitmap->count += fresh;
    return fresh;
}

uint64_t pd_bitmap_count(const struct pd_bitmap *bitmap, uint64_t from, uint64_t end)
{
    uint64_t found = 0;
    for (uint64_t at = from / 64; at * 64 < end && at < bitmap->capacity; at++)
        found += (uint64_t)__builtin_popcountll(bitmap->words[at] & mask(at, from, end));
    return found;
}

uint64_t pd_bitmap_next(const struct pd_bitmap *bitmap, uint64_t from, uint64_t end, bool in_it)
{
    for (uint64_t at = from / 64; at * 64 < end; at++) {
        uint64_t word = at < bitmap->capacity ? bitmap->words[at] : 0;
        uint64_t bits = (in_it ? word : ~word) & mask(at, from, end);
        if (bits != 0)
            return at * 64 + (uint64_t)__builtin_ctzll(bits);
        if (in_it && at >= bitmap->capacity)
            break;
    }
    return end;
}

uint64_t pd_bitmap_last_free(const struct pd_bitmap *bitmap, uint64_t end)
{
    for (uint64_t at = (end + 63) / 64; at-- > 0;) {
        uint64_t word = at < bitmap->capacity ? bitmap->words[at] : 0;
        uint64_t bits = ~word & mask(at, 0, end);
        if (bits != 0)
            return at * 64 + 63 - (uint64_t)__builtin_clzll(bits);
    }
    return end;
}
