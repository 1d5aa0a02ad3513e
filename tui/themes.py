"""The themes that ``t`` goes through."""

from __future__ import annotations

from typing import Final

from textual.theme import Theme

DARK = Theme(
    name="platformd-dark",
    primary="#6cb6ff",
    secondary="#8ea6c8",
    accent="#f0b35c",
    success="#7fd18b",
    warning="#f2c14e",
    error="#ff7b72",
    foreground="#d7dee8",
    background="#0f141b",
    surface="#0f141b",
    panel="#1b2430",
    dark=True,
)
LIGHT = Theme(
    name="platformd-light",
    primary="#1a5fb4",
    secondary="#5b6b80",
    accent="#a35200",
    success="#1a7f37",
    warning="#8a5a00",
    error="#c0261d",
    foreground="#1c2430",
    background="#fafbfc",
    surface="#fafbfc",
    panel="#e6ebf1",
    dark=False,
)
NIGHT = Theme(
    # Red light alone leaves eyes adapted to the dark; severity shows in brightness.
    name="platformd-night",
    primary="#e04a3a",
    secondary="#a03026",
    accent="#ff6a55",
    success="#c8402f",
    warning="#ff7a5c",
    error="#ffb09c",
    foreground="#e4604e",
    background="#0a0000",
    surface="#0a0000",
    panel="#240604",
    dark=True,
)
OWN: Final = (DARK, LIGHT, NIGHT)
"""Themes to register."""
CYCLE: Final = (DARK.name, LIGHT.name, NIGHT.name, "ansi-dark")
"""In the order of ``t``; the last takes the terminal's own 16 colours."""
