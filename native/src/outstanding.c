/* What a consumer has delivered and not heard of.
 *
 * Deliveries go out in ascending order, so new ones are pushed at the end, and a binary search finds any. One
 * that is done leaves its place behind ("gone"); places at both ends are given back at once, those between
 * when the array is full: then it is packed, and only if more than half of it is live does it grow. So memory
 * is at most four times what max_ack_pending allows, and every operation is O(log n) amortised.
 */
#include "outstanding.h"

#include <stdlib.h>

void pd_outstanding_fini(struct pd_outstanding *out)
{
    free(out->entries);
    free(out->done);
    *out = (struct pd_outstanding){0};
}

struct pd_out *pd_outstanding_find(struct pd_outstanding *out, uint64_t sequence)
{
    size_t low = out->start;
    size_t high = out->end;
    bool guessed = out->guess >= low && out->guess < high && out->entries[out->guess].sequence == sequence;
    if (guessed)
        low = high = out->guess;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (out->entries[middle].sequence < sequence)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == out->end || out->entries[low].sequence != sequence || out->entries[low].state == PD_OUT_GONE)
        return NULL;
    out->guess = low + 1;
    return &out->entries[low];
}

static void pack(struct pd_outstanding *out)
{
    size_t to = 0;
    for (size_t from = out->start; from < out->end; from++)
        if (out->entries[from].state != PD_OUT_GONE)
            out->entries[to++] = out->entries[from];
    out->start = 0;
    out->end = to;
}

bool pd_outstanding_reserve(struct pd_outstanding *out, size_t count)
{
    if (out->end + count <= out->capacity)
        return true;
    pack(out);
    return pd_reserve((void **)&out->entries, &out->capacity, (out->end + count) * 2, sizeof *out->entries);
}

struct pd_out *pd_outstanding_push(struct pd_outstanding *out, uint64_t sequence, enum pd_out_state state)
{
    if (out->end == out->capacity && !pd_outstanding_reserve(out, 1))
        return NULL;
    struct pd_out *entry = &out->entries[out->end++];
    *entry = (struct pd_out){.sequence = sequence, .state = state};
    out->live++;
    out->ready += state == PD_OUT_READY;
    return entry;
}

void pd_outstanding_set(struct pd_outstanding *out, struct pd_out *entry, enum pd_out_state state)
{
    out->ready -= entry->state == PD_OUT_READY;
    out->ready += state == PD_OUT_READY;
    entry->state = state;
}

void pd_outstanding_note(struct pd_outstanding *out, uint64_t sequence)
{
    if (!out->notes)
        return;
    if (pd_reserve((void **)&out->done, &out->done_capacity, out->done_count + 1, sizeof *out->done))
        out->done[out->done_count++] = sequence;
    else
        out->done_lost = true;
}

void pd_outstanding_remove(struct pd_outstanding *out, struct pd_out *entry)
{
    if (out->notes)
        pd_outstanding_note(out, entry->sequence);
    pd_outstanding_set(out, entry, PD_OUT_GONE);
    out->live--;
    while (out->start < out->end && out->entries[out->start].state == PD_OUT_GONE)
        out->start++;
    while (out->start < out->end && out->entries[out->end - 1].state == PD_OUT_GONE)
        out->end--;
    if (out->start == out->end)
        out->start = out->end = 0;
}

void pd_outstanding_remove_up_to(struct pd_outstanding *out, uint64_t sequence)
{
    while (out->live > 0 && out->entries[out->start].sequence <= sequence)
        pd_outstanding_remove(out, &out->entries[out->start]);
}

uint64_t pd_outstanding_lowest(const struct pd_outstanding *out)
{
    return out->live > 0 ? out->entries[out->start].sequence : 0;
}
