"""Event pipelines: chains of stages over the records of a stream.

To read in this order: ``expressions`` and ``annotators`` (what a stage computes), ``avro`` and
``projection`` (how a packet is read), ``stages`` (a stage as a pure function), ``plan`` and ``rules`` (what
a Pipeline resource means for streams, consumers and processes), ``worker`` (the process that does a stage's
work), ``supervision`` and ``controller`` (what keeps the processes as they should be). ``ztf`` makes
packets for trying it out.
"""
