/* Which (subject, msg_id) a stream has stored lately.
 *
 * A ring keeps the hashes in the order of the log, so age and count are both bounded by dropping from its
 * head. A table of places in the ring, probed linearly and at most half full, finds a hash; deleting closes
 * the gap by moving later entries of the probe run back (no tombstones, so it never degrades).
 *
 * Only 128-bit keyed hashes are kept: with a million of them the chance that two different ids are taken for
 * one is below 1e-26, and 32 bytes a record is what bounds the memory (24 in the ring, 8 in the table).
 */
#include "dedup.h"

#include <stdlib.h>

#define FIRST_CAPACITY 256

void pd_dedup_init(struct pd_dedup *dedup, uint64_t window_ns, size_t limit)
{
    *dedup = (struct pd_dedup){.window_ns = window_ns, .limit = limit};
}

void pd_dedup_fini(struct pd_dedup *dedup)
{
    free(dedup->entries);
    free(dedup->slots);
    *dedup = (struct pd_dedup){0};
}

static size_t slot_mask(const struct pd_dedup *dedup)
{
    return dedup->capacity * 2 - 1;
}

/* The slot of hash, or the free one where it would go. */
static size_t find_slot(const struct pd_dedup *dedup, struct pd_hash hash)
{
    size_t mask = slot_mask(dedup);
    size_t slot = hash.low & mask;
    while (dedup->slots[slot] != 0) {
        const struct pd_dedup_entry *entry = &dedup->entries[dedup->slots[slot] - 1];
        if (entry->hash.low == hash.low && entry->hash.high == hash.high)
            break;
        slot = (slot + 1) & mask;
    }
    return slot;
}

static void free_slot(struct pd_dedup *dedup, size_t hole)
{
    size_t mask = slot_mask(dedup);
    dedup->slots[hole] = 0;
    for (size_t at = (hole + 1) & mask; dedup->slots[at] != 0; at = (at + 1) & mask) {
        size_t home = dedup->entries[dedup->slots[at] - 1].hash.low & mask;
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            dedup->slots[hole] = dedup->slots[at];
            dedup->slots[at] = 0;
            hole = at;
        }
    }
}

static bool grow(struct pd_dedup *dedup)
{
    struct pd_dedup larger = *dedup;
    larger.capacity = dedup->capacity == 0 ? FIRST_CAPACITY : dedup->capacity * 2;
    larger.head = 0;
    larger.entries = calloc(larger.capacity, sizeof *larger.entries);
    larger.slots = calloc(larger.capacity * 2, sizeof *larger.slots);
    if (larger.entries == NULL || larger.slots == NULL || larger.capacity > UINT32_MAX / 2) {
        free(larger.entries);
        free(larger.slots);
        return false;
    }
    for (size_t i = 0; i < dedup->count; i++) {
        larger.entries[i] = dedup->entries[(dedup->head + i) & (dedup->capacity - 1)];
        larger.slots[find_slot(&larger, larger.entries[i].hash)] = (uint32_t)i + 1;
    }
    free(dedup->entries);
    free(dedup->slots);
    *dedup = larger;
    return true;
}

bool pd_dedup_has(const struct pd_dedup *dedup, struct pd_hash hash)
{
    return dedup->count > 0 && dedup->slots[find_slot(dedup, hash)] != 0;
}

/* 1: *slot is free for it, and the ring has a place; 0, -1 as pd_dedup_add. */
static int prepare(struct pd_dedup *dedup, struct pd_hash hash, size_t *slot)
{
    if (dedup->window_ns == 0)
        return 1;
    if (dedup->count == dedup->capacity && !grow(dedup))
        return -1;
    *slot = find_slot(dedup, hash);
    return dedup->slots[*slot] == 0;
}

static void put(struct pd_dedup *dedup, size_t slot, size_t place, struct pd_hash hash, uint64_t time_ns)
{
    dedup->entries[place] = (struct pd_dedup_entry){hash, time_ns};
    dedup->slots[slot] = (uint32_t)place + 1;
    dedup->count++;
}

int pd_dedup_add(struct pd_dedup *dedup, struct pd_hash hash, uint64_t time_ns)
{
    size_t slot = 0;
    int rc = prepare(dedup, hash, &slot);
    if (rc == 1 && dedup->window_ns != 0)
        put(dedup, slot, (dedup->head + dedup->count) & (dedup->capacity - 1), hash, time_ns);
    return rc;
}

int pd_dedup_add_oldest(struct pd_dedup *dedup, struct pd_hash hash, uint64_t time_ns)
{
    size_t slot = 0;
    int rc = prepare(dedup, hash, &slot);
    if (rc == 1 && dedup->window_ns != 0) {
        dedup->head = (dedup->head - 1) & (dedup->capacity - 1);
        put(dedup, slot, dedup->head, hash, time_ns);
    }
    return rc;
}

void pd_dedup_undo(struct pd_dedup *dedup, size_t count)
{
    for (; count > 0 && dedup->count > 0; count--) {
        size_t place = (dedup->head + dedup->count - 1) & (dedup->capacity - 1);
        free_slot(dedup, find_slot(dedup, dedup->entries[place].hash));
        dedup->count--;
    }
}

void pd_dedup_trim(struct pd_dedup *dedup, uint64_t now_ns)
{
    while (dedup->count > 0) {
        const struct pd_dedup_entry *oldest = &dedup->entries[dedup->head];
        bool expired = pd_add_saturating(oldest->time_ns, dedup->window_ns) < now_ns;
        if (!expired && dedup->count <= dedup->limit)
            return;
        free_slot(dedup, find_slot(dedup, oldest->hash));
        dedup->head = (dedup->head + 1) & (dedup->capacity - 1);
        dedup->count--;
    }
}
