"""How this copy of the tracker was built."""

from typing import Final

from tracker import frames

COMPILED: Final = not str(frames.__file__).endswith(".py")
"""Whether the modules that every message goes through are compiled (`hatch_build.py`), or plain Python."""
