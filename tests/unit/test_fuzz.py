"""The seeds of all fuzz targets keep their promises: with compiled modules, too, and without a fuzzer."""

import random
from pathlib import Path

import pytest

from tests.fuzz import target
from tests.fuzz.target import NAMES, cut, load

SHARED = {"__init__", "__main__", "child", "recorded", "runner", "target"}


def test_all_targets_are_run() -> None:
    modules = {path.stem for path in Path(target.__file__).parent.glob("*.py")}
    assert modules - SHARED == set(NAMES)
    assert list(NAMES) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_seeds(name: str) -> None:
    fuzzed = load(name)
    seeds = list(fuzzed.seeds())
    assert seeds
    assert max(map(len, seeds)) <= fuzzed.max_size
    for seed in seeds:
        fuzzed.check(seed)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_seeds(name: str) -> None:
    """A few of the inputs that a fuzzer tries first: a byte replaced, a part left out, a word put in."""
    fuzzed = load(name)
    chosen = random.Random(1)
    for seed in fuzzed.seeds():
        place, end = sorted((chosen.randrange(len(seed) + 1), chosen.randrange(len(seed) + 1)))
        for middle in (bytes([chosen.randrange(256)]), b"", chosen.choice(fuzzed.words)):
            fuzzed.check(seed[:place] + middle + seed[place + len(middle) :])
        fuzzed.check(seed[:place] + seed[end:])


def test_pieces() -> None:
    data = bytes(range(50))
    for seed in range(128):
        pieces = cut(data, seed)
        assert b"".join(pieces) == data
        assert all(pieces)
    assert len(cut(data, 0)) == len(data)
    assert len({tuple(cut(data, seed)) for seed in range(128)}) > 100
    assert cut(b"", 0) == cut(b"", 5) == []
