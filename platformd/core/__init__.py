"""What every room may use and what knows no room: errors, settings, clock, ids, quantities."""
