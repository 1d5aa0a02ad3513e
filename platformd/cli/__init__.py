"""The command line: a client like any other.

``main`` has the entry point and turns errors into lines and exit codes; ``commands`` one module for each
subcommand; ``options`` what they share; ``output`` tables and documents, ``documents`` what ``-f`` reads.
Modules of ``commands`` import what they need inside the function that needs it, so that ``platformd get``
does not pay for what ``platformd run`` uses; a test holds that.
"""
