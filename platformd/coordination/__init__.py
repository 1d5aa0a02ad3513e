"""The coordination store: an ordered keyspace with one revision, transactions, watches and leases.

``contract`` has the promises; one folder for each engine has the same files inside.
"""
