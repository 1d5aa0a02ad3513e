/* What finished in process.
 *
 * A token has its place in the ring from the moment it is handed in, so finishing can never find it full.
 * The eventfd is written when the ring stops being empty, so a burst costs one wake-up.
 */
#include "completion.h"

#include "batch.h"

#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

int pd_completions_init(struct pd_completions *completions, pd_error *error)
{
    *completions = (struct pd_completions){.event_fd = -1};
    pthread_mutex_init(&completions->lock, NULL);
    completions->ring = calloc(PD_TOKENS_MAX, sizeof *completions->ring);
    if (completions->ring == NULL)
        return pd_fail(error, PD_LIMIT_REACHED, "no memory for the completion ring");
    completions->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return completions->event_fd >= 0 ? PD_OK : pd_fail_errno(error, "cannot make", "an eventfd");
}

static void forget_taken(struct pd_completions *completions)
{
    for (size_t i = 0; i < completions->taken_count; i++)
        free(completions->taken[i].bitmap);
    completions->taken_count = 0;
}

void pd_completions_fini(struct pd_completions *completions)
{
    for (uint32_t i = 0; i < completions->count; i++)
        free(completions->ring[(completions->head + i) % PD_TOKENS_MAX].bitmap);
    forget_taken(completions);
    free(completions->taken);
    free(completions->ring);
    if (completions->event_fd >= 0)
        close(completions->event_fd);
    pthread_mutex_destroy(&completions->lock);
}

bool pd_completions_reserve(struct pd_completions *completions)
{
    pthread_mutex_lock(&completions->lock);
    bool free_place = completions->tokens < PD_TOKENS_MAX;
    completions->tokens += free_place;
    pthread_mutex_unlock(&completions->lock);
    return free_place;
}

void pd_completions_unreserve(struct pd_completions *completions)
{
    pthread_mutex_lock(&completions->lock);
    completions->tokens--;
    pthread_mutex_unlock(&completions->lock);
}

void pd_completions_put(struct pd_completions *completions, const struct pd_finished_token *finished)
{
    uint64_t one = 1;
    pthread_mutex_lock(&completions->lock);
    completions->ring[(completions->head + completions->count++) % PD_TOKENS_MAX] = *finished;
    bool first = completions->count == 1;
    if (first && write(completions->event_fd, &one, sizeof one) < 0)
        first = false; /* the counter is far from full, and an eventfd fails for nothing else */
    pthread_mutex_unlock(&completions->lock);
}

/* Keep the positions of the duplicates until the next drain. Without memory for them they are lost: the
 * completion still has their number. */
static void keep_duplicates(struct pd_completions *completions, struct pd_finished_token *finished)
{
    if (finished->bitmap == NULL)
        return;
    if (pd_reserve((void **)&completions->taken, &completions->taken_capacity, completions->taken_count + 1,
                   sizeof *completions->taken))
        completions->taken[completions->taken_count++] = *finished;
    else
        free(finished->bitmap);
    finished->bitmap = NULL;
}

size_t pd_completions_drain(struct pd_completions *completions, pd_completion *out, size_t capacity)
{
    size_t taken = 0;
    uint64_t count;
    pthread_mutex_lock(&completions->lock);
    forget_taken(completions);
    for (; taken < capacity && completions->count > 0; taken++) {
        struct pd_finished_token *finished = &completions->ring[completions->head];
        out[taken] = finished->completion;
        keep_duplicates(completions, finished);
        completions->head = (completions->head + 1) % PD_TOKENS_MAX;
        completions->count--;
        completions->tokens--;
    }
    if (completions->count == 0 && read(completions->event_fd, &count, sizeof count) < 0)
        count = 0; /* it was not set: nothing had come since the last time */
    pthread_mutex_unlock(&completions->lock);
    return taken;
}

size_t pd_completions_duplicates(struct pd_completions *completions, uint64_t token, uint32_t *positions,
                                 size_t capacity)
{
    size_t found = 0;
    pthread_mutex_lock(&completions->lock);
    for (size_t i = 0; i < completions->taken_count; i++) {
        const struct pd_finished_token *finished = &completions->taken[i];
        if (finished->completion.token != token)
            continue;
        for (uint32_t at = 0; at < finished->record_count && found < capacity; at++)
            if (pd_bit(finished->bitmap, at))
                positions[found++] = at;
        break;
    }
    pthread_mutex_unlock(&completions->lock);
    return found;
}
