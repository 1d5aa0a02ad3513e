/* The broker: the nng sockets that programs outside talk to. What they speak is at the heads of wire.c (ingest and
 * fetch), plain.c (push) and live.c. */
#ifndef PD_BROKER_H
#define PD_BROKER_H

#include "base.h"

struct pd_broker;

/* There may be room for batches again. */
void pd_broker_resume(struct pd_broker *broker);

/* Take no new requests. When this returns what was received is answered, except long polls and appends that
 * wait for the disk. */
void pd_broker_quiesce(struct pd_broker *broker);

/* Close the sockets, after the last replies had time to leave. Nothing may be unanswered any more. */
void pd_broker_close(struct pd_broker *broker);

void pd_broker_free(struct pd_broker *broker);

#endif
