"""One module for each subcommand; each has its click command as ``command``."""
