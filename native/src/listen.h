/* Listening at the addresses of a socket. */
#ifndef PD_LISTEN_H
#define PD_LISTEN_H

#include "base.h"
#include "nng_api.h"

#define PD_SOCKET_MODE 0660 /* of Unix sockets */

/* What nng calls it, for listeners of either kind. */
#define PD_OPTION_MODE "ipc:permissions"
#define PD_OPTION_TLS  "tls-config"
#define PD_OPTION_PORT "tcp-bound-port"

static inline bool pd_is_ipc(const char *url)
{
    return strncmp(url, "ipc:", 4) == 0;
}

/* Begin to listen at every address in `listens` that is for `which`; at least one must be. */
int pd_listen_all(const struct pd_nng *nng, nng_socket socket, uint32_t which, pd_listen *listens, uint32_t count,
                  pd_error *error);

/* The one sentence for an address that cannot be had. */
int pd_listen_failed(const struct pd_nng *nng, const char *url, int rv, pd_error *error);

#endif
