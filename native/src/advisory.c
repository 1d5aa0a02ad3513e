/* What an operator should know. */
#include "advisory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int pd_advisories_init(struct pd_advisories *advisories, int event_fd, pd_error *error)
{
    *advisories = (struct pd_advisories){.event_fd = event_fd};
    pthread_mutex_init(&advisories->lock, NULL);
    advisories->ring = calloc(PD_ADVISORIES_MAX, sizeof *advisories->ring);
    return advisories->ring != NULL ? PD_OK : pd_fail(error, PD_LIMIT_REACHED, "no memory for the advisories");
}

void pd_advisories_fini(struct pd_advisories *advisories)
{
    free(advisories->ring);
    pthread_mutex_destroy(&advisories->lock);
}

void pd_advise(struct pd_advisories *advisories, enum pd_advisory_kind kind, const char *stream, const char *consumer,
               const char *format, ...)
{
    uint64_t one = 1;
    va_list arguments;
    pthread_mutex_lock(&advisories->lock);
    if (advisories->count == PD_ADVISORIES_MAX) {
        advisories->head = (advisories->head + 1) % PD_ADVISORIES_MAX;
        advisories->count--;
        advisories->lost++;
    }
    pd_advisory *advisory = &advisories->ring[(advisories->head + advisories->count++) % PD_ADVISORIES_MAX];
    *advisory = (pd_advisory){.time_ns = pd_wall_ns(), .kind = kind};
    snprintf(advisory->stream, sizeof advisory->stream, "%s", stream);
    snprintf(advisory->consumer, sizeof advisory->consumer, "%s", consumer);
    va_start(arguments, format);
    vsnprintf(advisory->detail, sizeof advisory->detail, format, arguments);
    va_end(arguments);
    pthread_mutex_unlock(&advisories->lock);
    if (write(advisories->event_fd, &one, sizeof one) < 0)
        return; /* the counter is at its end: whoever waits for it is awake */
}

size_t pd_advisories_drain(struct pd_advisories *advisories, pd_advisory *out, size_t capacity)
{
    size_t taken = 0;
    pthread_mutex_lock(&advisories->lock);
    for (; taken < capacity && advisories->count > 0; taken++) {
        out[taken] = advisories->ring[advisories->head];
        out[taken].lost = advisories->lost;
        advisories->lost = 0;
        advisories->head = (advisories->head + 1) % PD_ADVISORIES_MAX;
        advisories->count--;
    }
    pthread_mutex_unlock(&advisories->lock);
    return taken;
}
