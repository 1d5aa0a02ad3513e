/* Which stream captures a subject: a trie over all streams' patterns and a bounded cache of its answers.
 * Not thread-safe: the engine's lock guards it. */
#ifndef PD_ROUTER_H
#define PD_ROUTER_H

#include "base.h"

struct pd_route {
    const char *pattern; /* valid, NUL-terminated; kept by the caller until the next build */
    void *owner;
};

struct pd_router;

/* NULL when there is no memory. */
struct pd_router *pd_router_alloc(void);
void pd_router_free(struct pd_router *router);

/* Replace all routes. No two patterns may overlap. False (and nothing changed) when there is no memory. */
bool pd_router_build(struct pd_router *router, const struct pd_route *routes, size_t count);

/* The owner of the pattern that covers a valid subject, or NULL. */
void *pd_router_find(struct pd_router *router, const char *subject, size_t length);

#endif
