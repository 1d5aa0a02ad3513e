/* nng's functions, as addresses that somebody else found: the library lies inside of pynng's wheel and is
 * not linked. The declarations are those of nng 1.11. */
#ifndef PD_NNG_API_H
#define PD_NNG_API_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t id;
} nng_socket;

typedef struct {
    uint32_t id;
} nng_ctx;

typedef struct {
    uint32_t id;
} nng_pipe;

typedef struct {
    uint32_t id;
} nng_listener;

typedef struct {
    void *buffer;
    size_t length;
} nng_iov;

typedef struct nng_aio nng_aio;
typedef struct nng_msg nng_msg;
typedef struct nng_stream nng_stream;
typedef struct nng_stream_listener nng_stream_listener;

#define NNG_PIPE_EV_ADD_PRE  0
#define NNG_PIPE_EV_REM_POST 2
#define NNG_ETIMEDOUT        5
#define NNG_ECLOSED          7
#define NNG_FOREVER          (-1)

/* F(name, result, arguments), in the order of pd_nng_names. */
#define PD_NNG_FUNCTIONS(F)                                                                                            \
    F(nng_rep0_open, int, (nng_socket *))                                                                              \
    F(nng_pull0_open, int, (nng_socket *))                                                                             \
    F(nng_close, int, (nng_socket))                                                                                    \
    F(nng_socket_set_size, int, (nng_socket, const char *, size_t))                                                    \
    F(nng_listener_create, int, (nng_listener *, nng_socket, const char *))                                            \
    F(nng_listener_set_int, int, (nng_listener, const char *, int))                                                    \
    F(nng_listener_set_ptr, int, (nng_listener, const char *, void *))                                                 \
    F(nng_listener_get_int, int, (nng_listener, const char *, int *))                                                  \
    F(nng_listener_start, int, (nng_listener, int))                                                                    \
    F(nng_pipe_notify, int, (nng_socket, int, void (*)(nng_pipe, int, void *), void *))                                \
    F(nng_ctx_open, int, (nng_ctx *, nng_socket))                                                                      \
    F(nng_ctx_close, int, (nng_ctx))                                                                                   \
    F(nng_ctx_recv, void, (nng_ctx, nng_aio *))                                                                        \
    F(nng_ctx_send, void, (nng_ctx, nng_aio *))                                                                        \
    F(nng_recv_aio, void, (nng_socket, nng_aio *))                                                                     \
    F(nng_aio_alloc, int, (nng_aio **, void (*)(void *), void *))                                                      \
    F(nng_aio_free, void, (nng_aio *))                                                                                 \
    F(nng_aio_stop, void, (nng_aio *))                                                                                 \
    F(nng_aio_result, int, (nng_aio *))                                                                                \
    F(nng_aio_get_msg, nng_msg *, (nng_aio *))                                                                         \
    F(nng_aio_set_msg, void, (nng_aio *, nng_msg *))                                                                   \
    F(nng_aio_count, size_t, (nng_aio *))                                                                              \
    F(nng_aio_get_output, void *, (nng_aio *, unsigned))                                                               \
    F(nng_aio_set_iov, int, (nng_aio *, unsigned, const nng_iov *))                                                    \
    F(nng_aio_set_timeout, void, (nng_aio *, int32_t))                                                                 \
    F(nng_stream_send, void, (nng_stream *, nng_aio *))                                                                \
    F(nng_stream_recv, void, (nng_stream *, nng_aio *))                                                                \
    F(nng_stream_close, void, (nng_stream *))                                                                          \
    F(nng_stream_free, void, (nng_stream *))                                                                           \
    F(nng_stream_listener_alloc, int, (nng_stream_listener **, const char *))                                          \
    F(nng_stream_listener_listen, int, (nng_stream_listener *))                                                        \
    F(nng_stream_listener_accept, void, (nng_stream_listener *, nng_aio *))                                            \
    F(nng_stream_listener_close, void, (nng_stream_listener *))                                                        \
    F(nng_stream_listener_free, void, (nng_stream_listener *))                                                         \
    F(nng_stream_listener_set_int, int, (nng_stream_listener *, const char *, int))                                    \
    F(nng_stream_listener_set_ptr, int, (nng_stream_listener *, const char *, void *))                                 \
    F(nng_stream_listener_get_int, int, (nng_stream_listener *, const char *, int *))                                  \
    F(nng_msg_alloc, int, (nng_msg **, size_t))                                                                        \
    F(nng_msg_free, void, (nng_msg *))                                                                                 \
    F(nng_msg_body, void *, (nng_msg *))                                                                               \
    F(nng_msg_len, size_t, (const nng_msg *))                                                                          \
    F(nng_msg_get_pipe, nng_pipe, (const nng_msg *))                                                                   \
    F(nng_strerror, const char *, (int))

#define PD_NNG_FIELD(name, result, arguments) result(*name) arguments;
struct pd_nng {
    PD_NNG_FUNCTIONS(PD_NNG_FIELD)
};
#undef PD_NNG_FIELD

/* Fill the table from addresses in the order of pd_nng_names; -1 when one is missing. */
int pd_nng_fill(struct pd_nng *nng, void *const *functions);

#endif
