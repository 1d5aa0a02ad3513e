"""Proof of the store under concurrency and faults: recorded histories, a linearizability checker, watch validators."""
