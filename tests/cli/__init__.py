"""The command line, run in process against a small daemon."""
