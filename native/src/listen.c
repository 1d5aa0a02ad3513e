/* Listening at the addresses of a socket. */
#include "listen.h"

static int listen_at(const struct pd_nng *nng, nng_socket socket, pd_listen *listen)
{
    nng_listener listener;
    int port = 0;
    int rv = nng->nng_listener_create(&listener, socket, listen->url);
    if (rv == 0 && pd_is_ipc(listen->url))
        rv = nng->nng_listener_set_int(listener, PD_OPTION_MODE, PD_SOCKET_MODE);
    if (rv == 0 && listen->tls != NULL)
        rv = nng->nng_listener_set_ptr(listener, PD_OPTION_TLS, listen->tls);
    if (rv == 0)
        rv = nng->nng_listener_start(listener, 0);
    if (rv == 0 && !pd_is_ipc(listen->url))
        rv = nng->nng_listener_get_int(listener, PD_OPTION_PORT, &port);
    listen->port = (uint32_t)port;
    return rv;
}

int pd_listen_failed(const struct pd_nng *nng, const char *url, int rv, pd_error *error)
{
    return pd_fail(error, PD_IO_ERROR, "cannot listen on %.200s: %s", url, nng->nng_strerror(rv));
}

int pd_listen_all(const struct pd_nng *nng, nng_socket socket, uint32_t which, pd_listen *listens, uint32_t count,
                  pd_error *error)
{
    bool any = false;
    for (uint32_t i = 0; i < count; i++) {
        if (listens[i].socket != which)
            continue;
        int rv = listen_at(nng, socket, &listens[i]);
        if (rv != 0)
            return pd_listen_failed(nng, listens[i].url, rv, error);
        any = true;
    }
    return any ? PD_OK : pd_fail(error, PD_INVALID, "socket %u has no address", which);
}
