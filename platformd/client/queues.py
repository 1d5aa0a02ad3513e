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
"""

from platformd.client.consumer import Consumer
from platformd.client.endpoints import ClientTls
from platformd.client.producer import Pending, Producer
from platformd.client.subscriber import LiveRecord, Subscriber
from platformd.queues.contract import Delivery, Durability, Published, Record

__all__ = [
    "ClientTls",
    "Consumer",
    "Delivery",
    "Durability",
    "LiveRecord",
    "Pending",
    "Producer",
    "Published",
    "Record",
    "Subscriber",
]
