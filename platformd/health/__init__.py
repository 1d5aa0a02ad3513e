"""Health: what is measured and judged. It reports and never acts."""
