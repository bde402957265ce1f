"""The cache file keeps lookup results over restarts, and a corrupt file loses only its own contents."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.cache import MAX_KNOWN, MAX_SEEN, RENDEZVOUS_LIFETIME, Cache, Known, unpack
from extensions.dht.krpc import bencode
from extensions.entries import LIFETIME, SKEW
from extensions.trackers import RENDEZVOUS, Sighting
from tests.unit.dht.entries import HASH, NOW, OTHER_HASH, entry_of, unsigned, wire

DAY = 24 * 3600


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dht.sqlite"


@pytest.fixture
def opened(file: Path) -> Iterator[Cache]:
    """A new cache file, open."""
    one = Cache(file)
    assert one.open(NOW) == {}
    yield one
    one.close()


def reopened(file: Path, now: float = NOW, max_known: int = MAX_KNOWN) -> dict[bytes, Known]:
    """Return what a new process loads from the file."""
    one = Cache(file, max_known)
    try:
        return one.open(now)
    finally:
        one.close()


def known(looked: float = NOW, own_until: float = 0, *numbers: int, where: str = "cache") -> Known:
    sightings = [Sighting(entry_of(number), where) for number in numbers]
    return Known(looked, own_until, {one.entry.tracker_id: one for one in sightings})


def rows(file: Path) -> list[tuple[bytes, int]]:
    """Return all rows of the file, expired ones too."""
    database = sqlite3.connect(file)
    try:
        return database.execute("SELECT info_hash, looked FROM known ORDER BY looked").fetchall()
    finally:
        database.close()


def test_saved_results_are_loaded_after_a_restart(file: Path, opened: Cache) -> None:
    opened.save([(HASH, known(NOW, NOW + 60, 1, 2, where="r1")), (OTHER_HASH, known(NOW - 5))], NOW)
    opened.close()
    assert reopened(file) == {HASH: known(NOW, NOW + 60, 1, 2), OTHER_HASH: known(NOW - 5)}


def test_a_changed_result_replaces_the_old_one(file: Path, opened: Cache) -> None:
    opened.save([(HASH, known(NOW, 0, 1)), (OTHER_HASH, known(NOW, 0, 2))], NOW)
    opened.save([(HASH, known(NOW + 10, 0, 3))], NOW + 10)
    opened.save([], NOW + 10)
    assert reopened(file, NOW + 10) == {HASH: known(NOW + 10, 0, 3), OTHER_HASH: known(NOW, 0, 2)}


def test_times_are_kept_in_whole_seconds(file: Path, opened: Cache) -> None:
    opened.save([(HASH, known(NOW + 0.9, NOW + 60.5))], NOW + 0.9)
    assert reopened(file, NOW + 0.9) == {HASH: known(NOW, NOW + 60)}


def test_expired_results_are_not_loaded(file: Path, opened: Cache) -> None:
    opened.save([(HASH, known(NOW)), (OTHER_HASH, known(NOW + 1))], NOW + 1)
    assert set(reopened(file, NOW + LIFETIME)) == {OTHER_HASH}
    assert set(reopened(file, NOW + LIFETIME - 1)) == {HASH, OTHER_HASH}


def test_expired_results_are_deleted_by_the_next_save(file: Path, opened: Cache) -> None:
    opened.save([(HASH, known(NOW)), (RENDEZVOUS, known(NOW))], NOW)
    opened.save([(OTHER_HASH, known(NOW + LIFETIME))], NOW + LIFETIME)
    assert len(rows(file)) == 3
    opened.save([], NOW + LIFETIME + 1)
    assert rows(file) == [(RENDEZVOUS, NOW), (OTHER_HASH, NOW + LIFETIME)]


def test_after_the_clock_was_set_back_future_times_are_corrected(file: Path, opened: Cache) -> None:
    opened.save([(HASH, known(NOW + 60, NOW + 60 + LIFETIME, 1))], NOW + 60)
    assert reopened(file, NOW) == {HASH: known(0, NOW + LIFETIME, 1)}


def test_results_too_far_in_the_future_are_deleted_by_the_next_save(file: Path, opened: Cache) -> None:
    opened.save([(HASH, known(NOW + LIFETIME)), (OTHER_HASH, known(NOW + LIFETIME + 1))], NOW)
    assert rows(file) == [(HASH, NOW + LIFETIME)]


def test_trackers_of_the_rendezvous_are_kept_for_a_week(file: Path, opened: Cache) -> None:
    assert RENDEZVOUS_LIFETIME == 7 * DAY
    opened.save([(RENDEZVOUS, known(NOW, 0, 1)), (HASH, known(NOW, 0, 1))], NOW)
    for now in (NOW + DAY, NOW + 7 * DAY - 1):
        opened.save([], now)
        assert reopened(file, now) == {RENDEZVOUS: known(NOW, 0, 1)}
    assert reopened(file, NOW + 7 * DAY) == {}


def test_the_infohashes_looked_up_last_are_loaded_up_to_a_limit(file: Path, opened: Cache) -> None:
    opened.save([(bytes([n]) * 20, known(NOW - (n * 7 % 30))) for n in range(30)], NOW)
    loaded = reopened(file, max_known=10)
    assert sorted(one.looked for one in loaded.values()) == [NOW - n for n in range(9, -1, -1)]


# Corrupt files

TABLE = "CREATE TABLE known (info_hash BLOB PRIMARY KEY, looked INTEGER, own_until INTEGER, seen BLOB) WITHOUT ROWID"


def assert_is_replaced(file: Path) -> None:
    """Assert that nothing is loaded from a file, and that it can then be used."""
    one = Cache(file)
    assert one.open(NOW) == {}
    one.save([(HASH, known())], NOW)
    one.close()
    assert reopened(file) == {HASH: known()}


def execute(file: Path, *commands: str) -> None:
    database = sqlite3.connect(file)
    with database:
        for command in commands:
            database.execute(command)
    database.close()


@pytest.mark.parametrize(
    "content", [b"rubbish", b"rubbish" * 1000, b"SQLite format 3\0" + b"x" * 1000, b"SQLite format 3\0"]
)
def test_a_file_that_is_not_a_database_is_replaced(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert_is_replaced(file)


def test_a_database_of_an_unknown_format_is_replaced(file: Path, opened: Cache) -> None:
    opened.save([(HASH, known())], NOW)
    opened.close()
    content = bytearray(file.read_bytes())
    content[47] = 9
    file.write_bytes(content)
    assert reopened(file) == {}


def test_only_the_owner_may_read_the_file(file: Path, opened: Cache) -> None:
    opened.save([(HASH, known())], NOW)
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_row_whose_key_is_not_an_infohash_is_ignored(file: Path, opened: Cache) -> None:
    opened.save([(HASH, known())], NOW)
    opened.close()
    execute(file, f"INSERT INTO known VALUES ('text', {NOW}, 0, x'6c65')")
    assert reopened(file) == {HASH: known()}


def test_a_truncated_file_yields_its_intact_rows_or_nothing(file: Path, opened: Cache) -> None:
    opened.save([(bytes([n]) * 20, known(NOW, 0, 1)) for n in range(40)], NOW)
    opened.close()
    content = file.read_bytes()
    for length in range(0, len(content), 500):
        file.write_bytes(content[:length])
        one = Cache(file)
        assert all(value in (known(NOW, 0, 1), known(NOW)) for value in one.open(NOW).values())
        one.save([(HASH, known())], NOW)
        one.close()
        assert reopened(file)[HASH] == known()


@pytest.mark.parametrize(
    "commands",
    [
        ("CREATE TABLE known (info_hash BLOB, looked INTEGER)", "INSERT INTO known VALUES (x'00', 1)"),
        (TABLE, "INSERT INTO known VALUES (x'00', NULL, NULL, NULL)"),
        (TABLE, "INSERT INTO known VALUES (x'00', 'text', 0, x'6c65')"),
    ],
    ids=["other columns", "nothing", "text"],
)
def test_a_table_that_others_have_written_is_replaced(file: Path, commands: tuple[str, ...]) -> None:
    execute(file, *commands)
    assert_is_replaced(file)


@pytest.mark.parametrize(
    "seen",
    [
        *(b"", b"rubbish", b"d1:ai1e-6:", b"i5e", b"5:bytes", b"d1:a1:be", b"li5ee", b"lle"),
        bencode.encode([wire(entry_of(1))[:3]]),
        bencode.encode([[*wire(entry_of(1)), 5]]),
        bencode.encode([[b"\xff" * 64, *wire(entry_of(1))[1:]]]),
        bencode.encode([[5, *wire(entry_of(1))[1:]]]),
        bencode.encode([[entry_of(1).tracker_id, b"5", *wire(entry_of(1))[2:]]]),
        bencode.encode([[entry_of(1).tracker_id, 5, b"wss://a", 5]]),
        bencode.encode([[b"zz", 5, b"wss://a", b""]]),
    ],
)
def test_malformed_trackers_of_a_row_are_ignored(file: Path, opened: Cache, seen: bytes) -> None:
    opened.save([(HASH, known()), (OTHER_HASH, known(NOW, 0, 1))], NOW)
    opened.close()
    execute(file, f"UPDATE known SET seen = x'{seen.hex()}' WHERE info_hash = x'{HASH.hex()}'")
    assert reopened(file) == {HASH: known(), OTHER_HASH: known(NOW, 0, 1)}


@given(st.binary(max_size=100))
@settings(derandomize=True)
def test_any_bytes_instead_of_trackers_are_ignored(seen: bytes) -> None:
    assert unpack(seen) == {}


@pytest.mark.parametrize("name", ["missing", "taken"])
def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "taken").write_text("a file")
    one = Cache(tmp_path / name / "dht.sqlite")
    with pytest.raises((sqlite3.OperationalError, OSError)):
        one.open(NOW)
    one.close()
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_directory_in_place_of_the_file_is_an_error(file: Path) -> None:
    file.mkdir()
    with pytest.raises(sqlite3.OperationalError):
        reopened(file)
    assert file.is_dir()


def test_closing_twice_is_harmless(opened: Cache) -> None:
    opened.close()
    opened.close()


# The known trackers of an infohash


def test_the_last_entry_of_a_tracker_is_kept() -> None:
    one = Known()
    assert one.add(Sighting(entry_of(1, 60), "r0"))
    before = one.seen
    assert not one.add(Sighting(entry_of(1, 120), "r1"))
    assert one.add(Sighting(entry_of(1), "r2"))
    assert one.seen == {entry_of(1).tracker_id: Sighting(entry_of(1), "r2")}
    # Another thread may be iterating over the old dict.
    assert list(before.values()) == [Sighting(entry_of(1, 60), "r0")]


def test_of_too_many_trackers_those_whose_entries_end_last_are_kept() -> None:
    one = Known()
    numbers = list(range(MAX_SEEN + 2))
    for number in sorted(numbers, key=lambda number: number % 7):
        one.add(Sighting(unsigned(number, NOW + number), "r0"))
    assert set(one.seen) == {unsigned(number).tracker_id for number in numbers[2:]}


@pytest.mark.parametrize(
    ("info_hash", "passed", "left"),
    [
        (HASH, LIFETIME - 100, {1, 2}),
        (HASH, LIFETIME - 50, {1}),
        (HASH, LIFETIME, set()),
        (HASH, -SKEW, {1, 2}),
        (HASH, -SKEW - 1, {2}),
        (RENDEZVOUS, LIFETIME, {1, 2}),
        (RENDEZVOUS, LIFETIME + RENDEZVOUS_LIFETIME, set()),
    ],
)
def test_entries_that_have_ended_or_end_too_late_are_removed(info_hash: bytes, passed: int, left: set[int]) -> None:
    one = known(NOW, 0, 1)
    one.add(Sighting(entry_of(2, 60), "r0"))
    one.forget_ended(info_hash, NOW + passed)
    assert set(one.seen) == {entry_of(number).tracker_id for number in left}
