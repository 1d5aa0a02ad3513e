"""The screens: the overview, and what is laid over it."""
