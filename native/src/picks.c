/* Sequences that a consumer delivers before its cursor goes on. */
#include "picks.h"

#include <stdlib.h>

void pd_picks_fini(struct pd_picks *picks)
{
    free(picks->sequences);
    *picks = (struct pd_picks){0};
}

bool pd_picks_add(struct pd_picks *picks, uint64_t sequence)
{
    if (picks->count >= PD_PICKS_MAX || (picks->count > 0 && picks->sequences[picks->count - 1] >= sequence) ||
        !pd_reserve((void **)&picks->sequences, &picks->capacity, picks->count + 1, sizeof *picks->sequences))
        return false;
    picks->sequences[picks->count++] = sequence;
    return true;
}

void pd_picks_advance(struct pd_picks *picks, uint64_t last)
{
    while (picks->at < picks->count && picks->sequences[picks->at] <= last)
        picks->at++;
    if (picks->at == picks->count)
        pd_picks_fini(picks);
}

void pd_picks_cut(struct pd_picks *picks, uint64_t end)
{
    while (picks->count > picks->at && picks->sequences[picks->count - 1] >= end)
        picks->count--;
    if (picks->at == picks->count)
        pd_picks_fini(picks);
}
