"""Search for inputs that cost much CPU time for their size: `make fuzz-cost`.

An input is a part of a seed, a unit that repeats, and the rest of the seed. Mutations change the cut, the unit and the
size. The search keeps the inputs whose CPU time is greatest in relation to that of a valid announce of the same size,
and varies these. With the same seed the mutations are the same, as long as the times keep the same inputs. valgrind
confirms the dearest find of each target if it is beyond half of the budget, because times vary.
"""

import argparse
import gc
import shutil
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import process_time_ns
from typing import Final

from benchmarks.attacks import counted
from benchmarks.fuzz_seeds import GRAMMARS
from benchmarks.targets import BUDGET, TARGETS, Serve, Target, valid_announce

KEPT: Final = 60
"""Inputs that the search varies."""

REPEATS: Final = 3
"""Measurements of each input that seems to be dear; the least one counts."""

FRESH: Final = 500
"""Inputs after which the state of a target is made anew: swarms, for instance, would become ever larger."""

RANDOM_SHARE: Final = 0.2
"""The share of inputs that are made from a seed instead of an earlier find."""

_MAX_UNIT: Final = 200


@dataclass(frozen=True)
class Input:
    """`head`, as many `unit` as fit in `size` bytes, and `tail`."""

    head: bytes
    unit: bytes
    tail: bytes
    size: int

    @property
    def data(self) -> bytes:
        """The bytes."""
        room = self.size - len(self.head) - len(self.tail)
        return self.head + self.unit * (max(0, room) // max(1, len(self.unit))) + self.tail


@dataclass(frozen=True)
class Find:
    """An input and the ratio of its cost to that of the valid announce of its size."""

    ratio: float
    input: Input


class Costs:
    """CPU time, in relation to the valid announce of the same size."""

    def __init__(self) -> None:
        sizes = (100, 160, 250, 400, 630, *(round(1000 * 10 ** (step / 4)) for step in range(11)))
        serve = TARGETS["client"].prepare()
        times = [least(serve, payload, 20) for payload in map(valid_announce, sizes)]
        self._points = list(zip(sizes, times, strict=True))

    def valid(self, size: int) -> float:
        """Return the nanoseconds of the valid announce of this size, between two that were measured."""
        points = self._points
        at = min(max(1, bisect_left(points, (size, 0.0))), len(points) - 1)
        (smaller, less), (larger, more) = points[at - 1], points[at]
        share = min(1.0, max(0.0, (size - smaller) / (larger - smaller)))
        return less + share * (more - less)


def least(serve: Serve, data: bytes, repeats: int) -> int:
    """Return the least CPU time of several, in nanoseconds."""
    found = []
    for _ in range(repeats):
        start = process_time_ns()
        serve(data)
        found.append(process_time_ns() - start)
    return min(found)


class Search:
    """The search on one target."""

    def __init__(self, target: Target, costs: Costs, seed: int) -> None:
        self.tried = 0
        self.kept: list[Find] = []
        self._target = target
        self._costs = costs
        self._grammar = GRAMMARS[target.name]
        self._random = Random(f"{seed} {target.name}")
        self._serve = target.prepare()

    def run(self, seconds: float) -> None:
        """Search for so many seconds of CPU time."""
        until = process_time_ns() + round(seconds * 1e9)
        for seed in self._grammar.seeds:
            self._try(Input(seed, b"", b"", len(seed)))
        while process_time_ns() < until:
            self._try(self._next())

    def _try(self, one: Input) -> None:
        if not self.tried % FRESH:
            self._serve = self._target.prepare()
        self.tried += 1
        data = one.data
        if len(data) > self._target.max_size:
            return
        valid = self._costs.valid(self._target.size(data))
        bar = self.kept[-1].ratio if len(self.kept) >= KEPT else 0.0
        ratio = least(self._serve, data, 1) / valid
        if ratio > bar:
            ratio = min(ratio, least(self._serve, data, REPEATS) / valid)
        if ratio > bar:
            self.kept.append(Find(ratio, one))
            self.kept.sort(key=lambda find: -find.ratio)
            # Of many inputs with the same unit, only the best ones are kept, or all would soon be alike.
            same = [find for find in self.kept if find.input.unit == one.unit]
            if len(same) > 2:
                self.kept.remove(same[-1])
            del self.kept[KEPT:]

    def _next(self) -> Input:
        random = self._random
        if not self.kept or random.random() < RANDOM_SHARE:
            return self._new()
        parent = self.kept[min(random.randrange(len(self.kept)), random.randrange(len(self.kept)))].input
        match random.randrange(6):
            case 0:
                return replace(parent, size=self._size())
            case 1:
                return replace(self._new(), unit=parent.unit)
            case 2:
                return replace(parent, tail=self._mutated(parent.tail))
            case 3:
                return replace(parent, head=self._mutated(parent.head))
            case _:
                return replace(parent, unit=self._mutated(parent.unit)[:_MAX_UNIT])

    def _new(self) -> Input:
        random, grammar = self._random, self._grammar
        seed = random.choice(grammar.seeds)
        first, second = sorted((self._cut(seed), self._cut(seed)))
        before, separator, after = random.choice(grammar.wraps)
        unit = b"".join(random.choice(grammar.tokens) for _ in range(random.randint(1, 4))) + separator
        return Input(seed[:first] + before, unit, after + seed[second:], self._size())

    def _cut(self, seed: bytes) -> int:
        """Return a place in a seed, most often behind or before a character with a meaning."""
        places = [at for at, byte in enumerate(seed) if byte in self._grammar.marks]
        if not places or self._random.random() < 0.2:
            return self._random.randint(0, len(seed))
        return self._random.choice(places) + self._random.randint(0, 1)

    def _size(self) -> int:
        largest = self._target.max_size
        return largest if self._random.random() < 0.4 else round(largest ** self._random.uniform(0.35, 1.0))

    def _mutated(self, text: bytes) -> bytes:
        random, tokens = self._random, self._grammar.tokens
        at = random.randint(0, len(text))
        end = min(len(text), at + random.randint(1, 8))
        match random.randrange(5):
            case 0:
                return text[:at] + random.choice(tokens) + text[at:]
            case 1:
                return text[:at] + text[end:]
            case 2:
                return text[:at] + random.choice(tokens) + text[end:]
            case 3:
                return text[:at] + text[at:end] * random.randint(2, 4) + text[end:]
            case _:
                return text[:at] + bytes((random.randrange(256),)) + text[at + 1 :]


def confirmed(target: str, data: bytes, valid: float) -> float:
    """Return the ratio in instructions, by valgrind. `valid` are those of the valid announce of the same size."""
    with TemporaryDirectory() as directory:
        file = Path(directory, "input")
        file.write_bytes(data)
        return counted(f"file {target} {file}") / valid


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 1 if a confirmed find is over the budget."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_cost", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS), help="search only these")
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU time for each target (60)")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations (1)")
    parser.add_argument("--top", type=int, default=5, help="the number of finds that are shown for each target (5)")
    parser.add_argument("--save", type=Path, metavar="DIRECTORY", help="write the finds that are shown to files there")
    options = parser.parse_args(arguments)
    gc.disable()
    costs, exceeds = Costs(), False
    for name in options.target:
        search = Search(TARGETS[name], costs, options.seed)
        search.run(options.seconds)
        per_second = search.tried / options.seconds
        print(f"{name}: {search.tried:,} inputs, {per_second:,.0f} a second", flush=True)
        for number, find in enumerate(search.kept[: options.top]):
            data = find.input.data
            words = f"{find.ratio:7.1f} x in CPU time"
            # The CPU time alone tells enough of the others.
            if not number and find.ratio > BUDGET / 2 and shutil.which("valgrind"):
                ratio = confirmed(name, data, counted(f"announce {TARGETS[name].size(data)}"))
                exceeds = exceeds or ratio > BUDGET
                words += f", {ratio:.1f} x in instructions"
            print(f"  {words}: {len(data):,} bytes, {find.input.head[-60:]!r} {find.input.unit!r}", flush=True)
            if options.save:
                options.save.mkdir(parents=True, exist_ok=True)
                (options.save / f"{name}-{number}").write_bytes(data)
        gc.collect()
    return int(exceeds)


if __name__ == "__main__":
    raise SystemExit(main())
