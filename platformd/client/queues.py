"""Records in and out, for programs: ``Producer`` publishes, ``Consumer`` fetches and acknowledges.

``Subscriber`` follows live. They are synchronous (for trio: ``queues_trio``), belong to one thread, survive restarts of
the daemon, and talk to the broker's own sockets, whose addresses the daemon tells under ``GET /status``::

    with Producer(ingest) as producer:
        producer.publish("alerts.ztf", packet, msg_id=candid)

    with Consumer(fetch, "alerts", "archive") as consumer:
        while True:
            deliveries = consumer.fetch()
            store(deliveries)
            consumer.ack(deliveries)

``submit_payloads`` and ``fetch_batch`` move batches without an object for each record, for where there are more than
some hundred thousand in a second::

        producer.submit_payloads("alerts.ztf", packets)
        batch = consumer.fetch_batch()
        for payload in batch.payloads(): ...
        consumer.ack(batch)
"""

from platformd.client.consumer import Consumer
from platformd.client.endpoints import ClientTls
from platformd.client.producer import Pending, Producer
from platformd.client.subscriber import LiveRecord, Subscriber
from platformd.queues.codec import Deliveries
from platformd.queues.contract import Delivery, Durability, Published, Record

__all__ = [
    "ClientTls",
    "Consumer",
    "Deliveries",
    "Delivery",
    "Durability",
    "LiveRecord",
    "Pending",
    "Producer",
    "Published",
    "Record",
    "Subscriber",
]
