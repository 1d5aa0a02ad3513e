/* Which records of a stream are the newest on their subject.
 *
 * Of a subject only a keyed hash of 128 bits is kept, as against duplicates: nobody outside can make two collide.
 * Entries lie in one array, found through a table of their places. Nothing is removed one by one. A record that is
 * erased stays where it stands until its subject is asked for; a subject whose records are all gone stays until the
 * array has doubled, and then all such go at once. So an erasure costs nothing here, and memory is at most twice
 * what is kept.
 */
#include "subject_index.h"

#include <stdlib.h>

#define FIRST_SWEEP ((size_t)4096)

int pd_subject_index_init(struct pd_subject_index *index, pd_error *error)
{
    *index = (struct pd_subject_index){.sweep_at = FIRST_SWEEP};
    return pd_hash_key_make(&index->key, error);
}

static void entry_fini(struct pd_subject_entry *entry)
{
    if (entry->capacity > 1)
        free(entry->many);
}

void pd_subject_index_fini(struct pd_subject_index *index)
{
    for (size_t i = 0; i < index->count; i++)
        entry_fini(&index->entries[i]);
    free(index->entries);
    free(index->slots);
    *index = (struct pd_subject_index){0};
}

static uint32_t *find_slot(const struct pd_subject_index *index, struct pd_hash hash)
{
    size_t mask = index->slot_count - 1;
    for (size_t at = hash.low & mask;; at = (at + 1) & mask) {
        uint32_t *slot = &index->slots[at];
        if (*slot == 0)
            return slot;
        const struct pd_subject_entry *entry = &index->entries[*slot - 1];
        if (entry->hash.low == hash.low && entry->hash.high == hash.high)
            return slot;
    }
}

static struct pd_hash hash_of(const struct pd_subject_index *index, struct pd_span subject)
{
    return pd_hash_pair(&index->key, subject, (struct pd_span){(const uint8_t *)"", 0});
}

struct pd_subject_entry *pd_subject_index_find(const struct pd_subject_index *index, struct pd_span subject)
{
    uint32_t place = index->slot_count > 0 ? *find_slot(index, hash_of(index, subject)) : 0;
    return place != 0 ? &index->entries[place - 1] : NULL;
}

static void fill_slots(struct pd_subject_index *index)
{
    memset(index->slots, 0, index->slot_count * sizeof *index->slots);
    for (size_t i = 0; i < index->count; i++)
        *find_slot(index, index->entries[i].hash) = (uint32_t)i + 1;
}

static bool grow_slots(struct pd_subject_index *index)
{
    size_t wanted = index->slot_count < 64 ? 64 : index->slot_count * 2;
    uint32_t *slots = malloc(wanted * sizeof *slots);
    if (slots == NULL)
        return false;
    free(index->slots);
    index->slots = slots;
    index->slot_count = wanted;
    fill_slots(index);
    return true;
}

struct pd_subject_entry *pd_subject_index_add(struct pd_subject_index *index, struct pd_span subject)
{
    struct pd_hash hash = hash_of(index, subject);
    if ((index->count + 1) * 2 > index->slot_count && !grow_slots(index))
        return NULL;
    uint32_t *slot = find_slot(index, hash);
    if (*slot != 0)
        return &index->entries[*slot - 1];
    if (index->count >= PD_INDEX_SUBJECTS_MAX ||
        !pd_reserve((void **)&index->entries, &index->capacity, index->count + 1, sizeof *index->entries))
        return NULL;
    struct pd_subject_entry *entry = &index->entries[index->count++];
    *entry = (struct pd_subject_entry){.hash = hash, .capacity = 1};
    *slot = (uint32_t)index->count;
    return entry;
}

void pd_subject_index_sweep(struct pd_subject_index *index, pd_index_keeps keeps, const void *context)
{
    size_t kept = 0;
    if (index->count < index->sweep_at)
        return;
    for (size_t i = 0; i < index->count; i++) {
        struct pd_subject_entry *entry = &index->entries[i];
        pd_subject_entry_settle(entry, keeps, context);
        if (pd_subject_entry_left(entry) > 0)
            index->entries[kept++] = *entry;
        else
            entry_fini(entry);
    }
    index->count = kept;
    index->sweep_at = kept * 2 < FIRST_SWEEP ? FIRST_SWEEP : kept * 2;
    if (index->sweep_at > PD_INDEX_SUBJECTS_MAX && kept < PD_INDEX_SUBJECTS_MAX)
        index->sweep_at = PD_INDEX_SUBJECTS_MAX;
    fill_slots(index);
}

void pd_subject_entry_settle(struct pd_subject_entry *entry, pd_index_keeps keeps, const void *context)
{
    uint64_t *sequences = pd_subject_entry_sequences(entry);
    uint32_t kept = 0;
    for (uint32_t i = entry->at; i < entry->count; i++)
        if (keeps(context, sequences[i]))
            sequences[kept++] = sequences[i];
    entry->at = 0;
    entry->count = kept;
}

bool pd_subject_entry_push(struct pd_subject_entry *entry, uint64_t sequence)
{
    if (entry->count == entry->capacity && entry->at > 0 && entry->at >= entry->capacity / 2) {
        uint64_t *sequences = pd_subject_entry_sequences(entry);
        entry->count -= entry->at;
        memmove(sequences, sequences + entry->at, entry->count * sizeof *sequences);
        entry->at = 0;
    }
    if (entry->count == entry->capacity) {
        uint32_t wanted = entry->capacity < 4 ? 4 : entry->capacity * 2;
        uint64_t *many = realloc(entry->capacity > 1 ? entry->many : NULL, wanted * sizeof *many);
        if (many == NULL)
            return false;
        if (entry->capacity == 1)
            many[0] = entry->one;
        entry->many = many;
        entry->capacity = wanted;
    }
    pd_subject_entry_sequences(entry)[entry->count++] = sequence;
    return true;
}
