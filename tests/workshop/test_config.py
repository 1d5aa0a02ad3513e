"""config/platformd.toml shows every setting with its default."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import msgspec

from platformd.core.settings import SECTIONS, Settings, load

CONFIG = Path(__file__).resolve().parents[2] / "config" / "platformd.toml"


def test_config_is_accepted_as_it_stands() -> None:
    """The file that the package installs changes no default."""
    assert load(CONFIG) == Settings()


def test_config_shows_every_key_with_its_default() -> None:
    """With the comment signs of its keys taken off, the file is exactly the defaults."""
    shown = re.sub(r"(?m)^# ?([a-z_]+ = )", r"\1", CONFIG.read_text(encoding="utf-8"))
    assert tomllib.loads(shown) == json.loads(msgspec.json.encode({n: section() for n, section in SECTIONS.items()}))
