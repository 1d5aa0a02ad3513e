"""The conductor: the one door to state. Resources, validation, watches, and the reconcile helper."""

from platformd.conductor.conductor import Conductor
from platformd.conductor.facts import Change, ChangeBatch, Outcome, Page

__all__ = ["Change", "ChangeBatch", "Conductor", "Outcome", "Page"]
