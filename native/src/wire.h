/* Requests and replies on the nng sockets. The layout is at the head of wire.c. */
#ifndef PD_WIRE_H
#define PD_WIRE_H

#include "base.h"

enum pd_op { PD_OP_PUBLISH = 1, PD_OP_FETCH = 2, PD_OP_ACK = 3 };

#define PD_WIRE_VERSION     1
#define PD_WIRE_ON_SUBJECT  256u /* in the flags */
#define PD_WIRE_HEADER      24u
#define PD_WIRE_ACKS_MAX    65536u
#define PD_WIRE_REASONS_MAX ((size_t)1 << 20)                      /* bytes of all reasons in one request */
#define PD_WIRE_REQUEST_MAX (PD_WIRE_HEADER + 2 * PD_NAME_MAX + 7) /* without the body */

struct pd_request {
    uint8_t op;
    uint16_t flags;
    uint64_t arg1;
    uint32_t arg2;
    uint32_t arg3;
    char stream[PD_NAME_MAX + 1];
    char consumer[PD_NAME_MAX + 1];
    const uint8_t *body;
    size_t body_length;
};

/* PD_OK, PD_INVALID or PD_BAD_VERSION. request->op is set to what the frame has, or 0. */
int pd_request_parse(const uint8_t *frame, size_t length, struct pd_request *request, pd_error *error);

struct pd_reply {
    uint8_t op;
    uint16_t status;
    uint64_t r1;
    uint32_t r2;
    uint32_t r3;
};

/* Where the body starts behind a detail of so many bytes. */
size_t pd_reply_body_offset(size_t detail_length);

/* Write everything but the body. */
void pd_reply_write(uint8_t *frame, const struct pd_reply *reply, const char *detail, size_t detail_length);

#endif
