"""The counters of workers that have ended, so that those of the machine do not fall when a worker is replaced.

Prometheus takes a counter that falls for one that began anew, and would count all of the other workers' again. A worker
that serves metrics therefore writes the counters of all workers to files in their common directory. Later, the files of
workers that do not answer stand for them, and newer ones replace older answers.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from tracker.web.merging import Family, Merger

_SUMMED: Final = "ended"
"""The file with the sum of the counters of ended workers."""

_MAX_NUMBERS: Final = 1000
"""Numbers of workers that are remembered. Only shortly after its end, a worker's file may be written once more."""


class _Counters(msgspec.Struct, array_like=True):
    """The content of a file.

    Attributes:
        numbers: The numbers of the workers that it stands for.
        families: Their counters.
    """

    numbers: list[int]
    families: list[Family]


_DECODER: Final = msgspec.msgpack.Decoder(_Counters)


class PastCounters:
    """The counters of workers in files below a directory. All methods may take long."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "counters"

    def save(self, number: int, families: Iterable[Family]) -> None:
        """Write the counters of a worker. Do nothing if that is not possible: then some are lost at its end."""
        with suppress(OSError):
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._write(str(number), _Counters([number], list(families)))

    def exchange(self, present: Mapping[int, list[Family]]) -> tuple[dict[int, list[Family]], list[list[Family]]]:
        """Write the counters of the workers that have answered, by number.

        Return the latest counters of these workers by number, without those that have ended meanwhile; and those of all
        others.
        """
        latest = {number: self._latest(number, families) for number, families in present.items()}
        for number, families in latest.items():
            self.save(number, families)
        others, ended = self._others(present.keys())
        return {number: families for number, families in latest.items() if number not in ended}, others

    def sum_up(self, number: int) -> None:
        """Add the counters of a worker that has ended to those of the earlier ones, and remove its file."""
        with suppress(OSError, msgspec.MsgspecError):
            file = self._directory / str(number)
            if not file.exists():
                return
            merger = Merger()
            summed = self._read(_SUMMED) or _Counters([], [])
            ended = self._read(file.name)
            if ended and number not in summed.numbers:
                merger.add(summed.families)
                merger.add(ended.families)
                self._write(_SUMMED, _Counters([*summed.numbers, number][-_MAX_NUMBERS:], merger.families()))
            file.unlink()

    def _latest(self, number: int, families: list[Family]) -> list[Family]:
        """Return the newer ones of a worker's counters and those in its file, which another worker may have written."""
        known = self._read(str(number))
        if known is None:
            return families
        newest = Merger(always="max")
        newest.add(known.families)
        newest.add(families)
        return newest.families()

    def _others(self, present: Collection[int]) -> tuple[list[list[Family]], set[int]]:
        # The sum is read last: a worker's file that has just gone is in it.
        found = {}
        with suppress(OSError):
            for name in os.listdir(self._directory):
                if name.isdecimal() and int(name) not in present:
                    found[int(name)] = self._read(name)
        summed = self._read(_SUMMED) or _Counters([], [])
        alone = [counters.families for number, counters in found.items() if counters and number not in summed.numbers]
        return [*alone, summed.families], {number for number in summed.numbers if number in present}

    def _read(self, name: str) -> _Counters | None:
        try:
            return _DECODER.decode((self._directory / name).read_bytes())
        except (OSError, msgspec.MsgspecError):
            return None

    def _write(self, name: str, counters: _Counters) -> None:
        # Several workers may write the same file.
        new = self._directory / f"{name}.{os.getpid()}"
        new.write_bytes(msgspec.msgpack.encode(counters))
        new.replace(self._directory / name)
