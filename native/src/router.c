/* Which stream captures a subject.
 *
 * The trie has one node for each distinct prefix of tokens. Its edges are kept in one hash table over
 * (node, token), so that a node with a thousand children costs the same as one with two; `*` and `>` are
 * fields of the node. Patterns never overlap, so at most one path matches, but a literal branch can be a
 * dead end where `*` goes on (`a.b.c` beside `a.*.d`): the walk tries both.
 *
 * Patterns change rarely and subjects are asked for with each batch: the trie is built anew for each change,
 * and a direct-mapped cache of CACHE_SIZE answers (negative ones too) sits before it.
 */
#include "router.h"

#include "subject.h"

#include <stdlib.h>

#define CACHE_SIZE 1024

struct node {
    void *owner; /* of the pattern that ends here */
    void *rest;  /* of the pattern that goes on with '>' */
    uint32_t star;
};

struct edge {
    const char *token;
    uint32_t length;
    uint32_t from;
    uint32_t to; /* 0: the slot is free; the root is node 0 and nobody's child */
};

struct answer {
    void *owner;
    bool known;
    uint8_t length;
    char subject[PD_SUBJECT_MAX];
};

struct trie {
    struct node *nodes;
    struct edge *edges;
    uint32_t node_count;
    uint32_t edge_mask;
};

struct pd_router {
    struct trie trie;
    struct answer cache[CACHE_SIZE];
};

static uint64_t mix(uint64_t hash, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)text[i]) * 0x100000001b3u; /* FNV-1a */
    return hash ^ hash >> 32;
}

static struct edge *find_edge(const struct trie *trie, uint32_t from, const char *token, size_t length)
{
    uint32_t at = (uint32_t)mix(0xcbf29ce484222325u + from * 0x9e3779b97f4a7c15u, token, length) & trie->edge_mask;
    for (;; at = (at + 1) & trie->edge_mask) {
        struct edge *edge = &trie->edges[at];
        if (edge->to == 0)
            return edge;
        if (edge->from == from && edge->length == length && memcmp(edge->token, token, length) == 0)
            return edge;
    }
}

static size_t token_length(const char *at, const char *end)
{
    const char *dot = memchr(at, '.', (size_t)(end - at));
    return (size_t)((dot != NULL ? dot : end) - at);
}

static void insert(struct trie *trie, const struct pd_route *route)
{
    const char *at = route->pattern;
    const char *end = at + strlen(at);
    uint32_t node = 0;
    while (at <= end) {
        size_t length = token_length(at, end);
        if (length == 1 && *at == '>') {
            trie->nodes[node].rest = route->owner;
            return;
        }
        if (length == 1 && *at == '*') {
            if (trie->nodes[node].star == 0)
                trie->nodes[node].star = trie->node_count++;
            node = trie->nodes[node].star;
        } else {
            struct edge *edge = find_edge(trie, node, at, length);
            if (edge->to == 0)
                *edge = (struct edge){at, (uint32_t)length, node, trie->node_count++};
            node = edge->to;
        }
        at += length + 1;
    }
    trie->nodes[node].owner = route->owner;
}

/* The walk. Depth is bounded by the 128 tokens that a subject can have. */
static void *walk(const struct trie *trie, uint32_t node, const char *at, const char *end)
{
    if (at > end)
        return trie->nodes[node].owner;
    if (trie->nodes[node].rest != NULL)
        return trie->nodes[node].rest;
    size_t length = token_length(at, end);
    const struct edge *edge = find_edge(trie, node, at, length);
    if (edge->to != 0) {
        void *owner = walk(trie, edge->to, at + length + 1, end);
        if (owner != NULL)
            return owner;
    }
    uint32_t star = trie->nodes[node].star;
    return star != 0 ? walk(trie, star, at + length + 1, end) : NULL;
}

struct pd_router *pd_router_alloc(void)
{
    struct pd_router *router = calloc(1, sizeof *router);
    if (router != NULL && !pd_router_build(router, NULL, 0)) {
        free(router);
        return NULL;
    }
    return router;
}

void pd_router_free(struct pd_router *router)
{
    if (router == NULL)
        return;
    free(router->trie.nodes);
    free(router->trie.edges);
    free(router);
}

bool pd_router_build(struct pd_router *router, const struct pd_route *routes, size_t count)
{
    size_t tokens = 1;
    for (size_t i = 0; i < count; i++) {
        tokens++;
        for (const char *at = routes[i].pattern; *at != 0; at++)
            tokens += *at == '.';
    }
    size_t slots = 16;
    while (slots < tokens * 2)
        slots *= 2;
    struct trie trie = {.node_count = 1, .edge_mask = (uint32_t)slots - 1};
    trie.nodes = calloc(tokens, sizeof *trie.nodes);
    trie.edges = calloc(slots, sizeof *trie.edges);
    if (trie.nodes == NULL || trie.edges == NULL) {
        free(trie.nodes);
        free(trie.edges);
        return false;
    }
    for (size_t i = 0; i < count; i++)
        insert(&trie, &routes[i]);
    free(router->trie.nodes);
    free(router->trie.edges);
    router->trie = trie;
    memset(router->cache, 0, sizeof router->cache);
    return true;
}

void *pd_router_find(struct pd_router *router, const char *subject, size_t length)
{
    struct answer *answer = &router->cache[mix(0xcbf29ce484222325u, subject, length) % CACHE_SIZE];
    if (answer->known && answer->length == length && memcmp(answer->subject, subject, length) == 0)
        return answer->owner;
    answer->owner = walk(&router->trie, 0, subject, subject + length);
    answer->known = true;
    answer->length = (uint8_t)length;
    memcpy(answer->subject, subject, length);
    return answer->owner;
}
