"""A complete WebTorrent tracker. It knows no extension: imports point from `extensions` to here."""

from importlib.util import find_spec
from typing import Final

__version__ = "0.1.0"

_frames = find_spec("tracker.net.frames")

COMPILED: Final = _frames is not None and not str(_frames.origin).endswith(".py")
"""Whether the modules on the path of every message are compiled (`hatch_build.py`), or plain Python."""
