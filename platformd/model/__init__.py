"""The nouns: every kind's spec and status as frozen structs, and the declaration that faces read.

A kind is declared once (``Kind``); REST, the command line, the TUI and validation follow from it.
Nothing here does I/O.
"""
