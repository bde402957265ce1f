"""The tracker's key file, and the command that prints the tracker id."""

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from extensions.identity import KEY_FILE, IdentityError, keep_key, load_key, load_or_create, own_key, tracker_id
from tracker import cli


def pem_of(
    key: Ed25519PrivateKey | EllipticCurvePrivateKey, encryption: KeySerializationEncryption | None = None
) -> bytes:
    """Return a private key in PEM form."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(32))
NOT_PEM = "not a private key in PEM form"


def test_the_key_is_created_once(tmp_path: Path) -> None:
    first = load_or_create(tmp_path)
    assert tracker_id(load_or_create(tmp_path)) == tracker_id(first)
    assert [file.name for file in tmp_path.iterdir()] == [KEY_FILE], "no draft is left"


def test_only_the_owner_may_read_the_key(tmp_path: Path) -> None:
    load_or_create(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_the_tracker_id_is_the_public_key(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_bytes(pem_of(ED25519))
    # The public key of the all-zero secret key.
    assert tracker_id(load_or_create(tmp_path)) == "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"


def test_processes_that_start_at_once_use_the_same_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert len(set(map(tracker_id, threads.map(load_or_create, [tmp_path] * 8)))) == 1


def test_a_key_from_elsewhere_is_kept_unless_there_is_one(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    assert load_key(directory) is None
    assert not directory.exists()
    assert tracker_id(keep_key(directory, ED25519)) == tracker_id(ED25519)
    assert (directory / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert tracker_id(keep_key(directory, Ed25519PrivateKey.generate())) == tracker_id(ED25519)
    found = load_key(directory)
    assert found
    assert tracker_id(found) == tracker_id(ED25519)


class FakeTracker:
    """A tracker with an extension `cluster`."""

    def __init__(self, directory: Path, cluster: object) -> None:
        self.directory = directory
        self.cluster = cluster
        self.shown = ""

    def extension(self, name: str) -> object:
        return self.cluster if name == "cluster" else None

    async def use_state(self, read: Callable[[Path], Any]) -> Any:
        return read(self.directory)

    def show_id(self, shown: str) -> None:
        self.shown = shown


async def test_the_key_of_a_cluster_is_fetched_before_it_is_used(tmp_path: Path) -> None:
    class Cluster:
        async def fetch_key(self) -> None:
            keep_key(tmp_path, ED25519)

    tracker: Any = FakeTracker(tmp_path, Cluster())
    assert tracker_id(await own_key(tracker)) == tracker.shown == tracker_id(ED25519)


@pytest.mark.parametrize("cluster", [None, object()])
async def test_without_a_source_the_key_is_created(tmp_path: Path, cluster: object) -> None:
    tracker: Any = FakeTracker(tmp_path, cluster)
    assert tracker_id(await own_key(tracker)) == tracker.shown == tracker_id(load_or_create(tmp_path))


def test_a_draft_that_a_crash_has_left_does_no_harm(tmp_path: Path) -> None:
    # In a container the process may have the same id after each start.
    (tmp_path / f"{KEY_FILE}.{os.getpid()}").touch()
    assert tracker_id(load_or_create(tmp_path)) == tracker_id(load_or_create(tmp_path))


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(IdentityError, match=r"identity\.pem: cannot be created: No space left on device"):
            load_or_create(tmp_path)
    assert list(tmp_path.iterdir()) == []
    load_or_create(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", NOT_PEM),
        (b"not a key", NOT_PEM),
        (pem_of(ED25519)[:60], NOT_PEM),
        (pem_of(generate_private_key(SECP256R1())), "not an Ed25519 key"),
        (pem_of(ED25519, BestAvailableEncryption(b"secret")), "the key is encrypted; it must have no password"),
    ],
    ids=["empty", "text", "cut off", "another kind", "encrypted"],
)
def test_a_file_that_holds_no_usable_key_is_an_error_and_stays(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / KEY_FILE
    file.write_bytes(content)
    with pytest.raises(IdentityError) as raised:
        load_or_create(tmp_path)
    assert str(raised.value) == f"{file}: {complaint}"
    assert file.read_bytes() == content


def test_a_directory_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IdentityError) as raised:
        load_or_create(tmp_path / "file" / "below")
    assert str(raised.value) == f"{tmp_path / 'file' / 'below'}: Not a directory"


def test_a_directory_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).mkdir()
    with pytest.raises(IdentityError) as raised:
        load_or_create(tmp_path)
    assert str(raised.value) == f"{tmp_path / KEY_FILE}: Is a directory"


@pytest.mark.parametrize(
    ("state_dir", "complaint"),
    [("~no-such-user/x", "~no-such-user/x: no such home directory"), ("a\0b", "'a\\x00b': not a path")],
)
def test_a_state_dir_that_is_no_path(state_dir: str, complaint: str) -> None:
    with pytest.raises(IdentityError) as raised:
        load_or_create(Path(state_dir))
    assert str(raised.value).startswith(complaint)
    assert "\n" not in str(raised.value)


# `peerservers identity`


def run(monkeypatch: pytest.MonkeyPatch, state_dir: Path) -> int:
    """Run the command and return its exit code."""
    monkeypatch.setattr("sys.argv", ["peerservers", "identity", "--state-dir", str(state_dir)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_prints_the_id_and_creates_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path / "state") == 0
    assert capsys.readouterr() == (f"{tracker_id(load_or_create(tmp_path / 'state'))}\n", "")


def test_an_error_of_the_command_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / KEY_FILE).write_text("not a key")
    assert run(monkeypatch, tmp_path) == 2
    assert capsys.readouterr() == ("", f"peerservers: {tmp_path / KEY_FILE}: {NOT_PEM}\n")
