"""The key file, and what can be wrong with it."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from extensions.identity import KEY_FILE, IdentityError, load_or_create, tracker_id


def test_the_key_is_kept(tmp_path: Path) -> None:
    first = load_or_create(tmp_path)
    assert tracker_id(load_or_create(tmp_path)) == tracker_id(first)
    assert [file.name for file in tmp_path.iterdir()] == [KEY_FILE], "no draft is left"


def test_what_is_no_key_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / KEY_FILE
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"", b"not a key", other):
        file.write_bytes(content)
        with pytest.raises(IdentityError, match=KEY_FILE):
            load_or_create(tmp_path)
        assert file.read_bytes() == content


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IdentityError, match="file"):
        load_or_create(tmp_path / "file" / "below")


def test_a_key_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).mkdir()
    with pytest.raises(IdentityError, match=KEY_FILE):
        load_or_create(tmp_path)
