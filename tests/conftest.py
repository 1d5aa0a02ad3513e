"""What holds for every test."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# Nothing is asserted on time, so neither are hypothesis' own limits on it. In CI the examples are the same in
# every run, so that a change is judged by what it changes; elsewhere each run looks for new ones.
settings.register_profile(
    "platformd",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
    database=None,
    print_blob=True,
)
settings.load_profile("platformd")

# A shell starts what it puts into the background with SIGINT ignored, and every process below inherits that: what is
# tested of Ctrl-C would then wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
