"""Bridges: records from Kafka into streams, and from streams into Kafka.

To read in this order: ``headers`` and ``formats`` (what a record becomes on the way), ``plan`` and ``rules`` (what a
Bridge resource means for streams and its process), ``kafka`` (librdkafka, configured and listened to), ``taken``,
``source`` and ``sink`` (the two directions, and what they promise), ``worker`` (the process), ``controller`` (what
keeps it running). Only the process imports ``confluent_kafka``, which is an extra.
"""
