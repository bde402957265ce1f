"""The files of extensions, which are read again together with those of the tracker."""

from collections.abc import Callable
from typing import Any, NamedTuple

import structlog

from tracker.config import ConfigError
from tracker.files import look


class _File(NamedTuple):
    name: str
    read: Callable[[str], Any]
    adopt: Callable[[Any], None]

    def content(self) -> Any:
        try:
            return self.read(self.name)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"{self.name}: cannot be read: {error!r}") from error


class FileReaders:
    """Functions that read the files of extensions.

    Attributes:
        seen: The state of each file before its last reading, as `tracker.files.look` returns it.
    """

    def __init__(self) -> None:
        self.seen: dict[str, object] = {}
        self._files: list[_File] = []

    def add(self, name: str, read: Callable[[str], Any], adopt: Callable[[Any], None]) -> None:
        """Add a file and its functions (`TrackerHandle.add_file`), and read it.

        Raises:
            ConfigError: if the file cannot be used.
        """
        file = _File(name, read, adopt)
        self.seen |= look([name])
        adopt(file.content())
        self._files.append(file)

    def read(self) -> list[Any]:
        """Read all files again, which may take long. Return their contents for `adopt`.

        Raises:
            ConfigError: if a file cannot be used.
        """
        seen = look([file.name for file in self._files])
        contents = [file.content() for file in self._files]
        self.seen = seen
        return contents

    def adopt(self, contents: list[Any]) -> None:
        """Give the extensions the contents of their files."""
        for file, content in zip(self._files, contents, strict=True):
            try:
                file.adopt(content)
            except Exception:
                structlog.get_logger().exception("extension_failed", on="adopt", file=file.name)
