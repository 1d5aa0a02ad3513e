"""The conductor: the one door to state. Resources, validation, watches, and the reconcile helper."""
