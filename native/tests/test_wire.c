/* Requests: what is valid is taken apart rightly, everything else is refused. */
#include "check.h"
#include "wire.h"

#include <stdlib.h>

static size_t sample(uint8_t *out)
{
    uint8_t head[PD_WIRE_HEADER] = {1, 2, 0, 0, 6, 0, 2, 0, 0x88, 0x13, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 1, 0};
    memcpy(out, head, sizeof head);
    memcpy(out + 24, "alertscc", 8);
    memcpy(out + 32, "the body", 8);
    return 40;
}

static int parse(const uint8_t *frame, size_t length, struct pd_request *request)
{
    uint8_t *exact = malloc(length + 1);
    memcpy(exact + 1, frame, length);
    int rc = pd_request_parse(exact + 1, length, request, NULL);
    free(exact);
    return rc;
}

void test_wire(void)
{
    uint8_t frame[64];
    struct pd_request request;
    size_t length = sample(frame);
    CHECK_EQUAL(pd_request_parse(frame, length, &request, NULL), PD_OK);
    CHECK(request.op == 2 && request.arg1 == 5000 && request.arg2 == 10 && request.arg3 == 65536);
    CHECK(strcmp(request.stream, "alerts") == 0 && strcmp(request.consumer, "cc") == 0);
    CHECK(request.body_length == 8 && memcmp(request.body, "the body", 8) == 0);
    for (size_t shorter = 0; shorter < 32; shorter++)
        CHECK_EQUAL(parse(frame, shorter, &request), PD_INVALID);
    frame[0] = 2;
    CHECK_EQUAL(parse(frame, length, &request), PD_BAD_VERSION);
    frame[0] = 1;
    frame[24] = '/';
    CHECK_EQUAL(parse(frame, length, &request), PD_INVALID);
    frame[24] = 'a';
    frame[6] = 1; /* the last letter is padding now, and not zero */
    CHECK_EQUAL(parse(frame, length, &request), PD_INVALID);
    frame[4] = frame[5] = 0xff;
    CHECK_EQUAL(parse(frame, length, &request), PD_INVALID);
    for (int round = 0; round < 20000; round++) {
        sample(frame);
        for (int i = 0; i < 3; i++)
            frame[random_below(40)] = (uint8_t)random_below(256);
        parse(frame, random_below(41), &request);
    }
    struct pd_reply reply = {.op = 2, .status = 7, .r1 = 1, .r2 = 2, .r3 = 3};
    memset(frame, 0xaa, sizeof frame);
    pd_reply_write(frame, &reply, "why", 3);
    CHECK(frame[0] == 1 && frame[1] == 2 && frame[2] == 7 && frame[4] == 3 && frame[8] == 1 && frame[16] == 2);
    CHECK(memcmp(frame + 24, "why\0\0\0\0\0", 8) == 0 && pd_reply_body_offset(3) == 32);
}
