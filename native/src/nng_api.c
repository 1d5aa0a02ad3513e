/* nng's functions, as addresses that somebody else found. */
#include "nng_api.h"

#include "platformd.h"

#include <assert.h>
#include <string.h>

#define NAME(name, result, arguments) #name,
static const char *const names[] = {PD_NNG_FUNCTIONS(NAME) NULL};

#define COUNT (sizeof names / sizeof names[0] - 1)
static_assert(sizeof(struct pd_nng) == COUNT * sizeof(void *), "a table of nothing but addresses");

const char *const *pd_nng_names(void)
{
    return names;
}

int pd_nng_fill(struct pd_nng *nng, void *const *functions)
{
    for (size_t i = 0; i < COUNT; i++)
        if (functions[i] == NULL)
            return -1;
    memcpy(nng, functions, sizeof *nng);
    return 0;
}
