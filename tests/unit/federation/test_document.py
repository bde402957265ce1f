"""The modules compute what `docs/federation.md` specifies."""

import importlib.util
import json
from hashlib import blake2b, sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.federation import wire
from extensions.federation.reasons import BROKEN_RULES, Dropped, EndReason
from extensions.federation.session import Session
from extensions.trackers import normal
from tests.unit.federation.links import give
from tracker.core.overlap import marks_of
from tracker.extension import swarm_key

DOCUMENT = Path(__file__).parents[3] / "docs" / "federation.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
BLOCKS = [block.strip("\n").split("\n") for block in TEXT.partition("\n## Test vectors\n")[2].split("```")[1::2]]
NAMED = {name: value for name, _, value in (line.partition(": ") for line in BLOCKS[0])}
FRAMES = [(frame, word == "valid") for word, _, frame in (line.partition(" ") for line in BLOCKS[1])]
URLS = [(line.split()[1:], line.split()[0] == "same") for line in BLOCKS[2]]
HASH = bytes.fromhex(NAMED["infohash"]).decode("latin-1")


def key_of(side: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(NAMED[f"{side}_seed"]))


@pytest.fixture
def ends() -> dict[str, Session]:
    """A dialer and a listener that have not said anything yet."""
    nonces = {side: bytes.fromhex(NAMED[f"{side}_nonce"]) for side in ("dialer", "listener")}
    return {
        "dialer": Session(key_of("dialer"), nonces["dialer"], url=NAMED["url"], expected=NAMED["listener_id"]),
        "listener": Session(key_of("listener"), nonces["listener"], accepts=lambda url: url == NAMED["url"]),
    }


@pytest.mark.parametrize(("side", "other"), [("dialer", "listener"), ("listener", "dialer")])
def test_a_handshake(ends: dict[str, Session], side: str, other: str) -> None:
    session = ends[side]
    assert json.loads(session.start()) == json.loads(NAMED[f"{side}_hello"])
    _, (proof,) = session.receive(NAMED[f"{other}_hello"].encode())
    assert json.loads(proof) == json.loads(NAMED[f"{side}_proof"])
    assert json.loads(proof)["signature"] == NAMED[f"{side}_signature"]
    give(session, [NAMED[f"{other}_proof"].encode()])
    assert session.tracker_id == NAMED[f"{other}_id"]
    session.open_swarm(HASH)
    assert session.name_of(NAMED["text_info_hash"]) == NAMED["text_name"]
    assert swarm_key(NAMED["text_info_hash"]).hex() == NAMED["text_key"]
    assert json.loads(session.tell([(HASH, 1, 2)])[0]) == {"type": "have", "swarms": [[NAMED["name"], 1, 2]]}


def test_it_can_be_computed_from_the_document_alone() -> None:
    parts = [NAMED[name] for name in ("dialer_id", "listener_id", "dialer_nonce", "listener_nonce")]
    transcript = b"peerservers.federation.1" + bytes.fromhex("".join(parts)) + sha256(NAMED["url"].encode()).digest()
    assert transcript.hex() == NAMED["transcript"]
    assert sha256(NAMED["url"].encode()).hexdigest() == NAMED["url_hash"]
    for side in ("dialer", "listener"):
        assert key_of(side).public_key().public_bytes_raw().hex() == NAMED[f"{side}_id"]
        assert key_of(side).sign(side.encode() + b" " + transcript).hex() == NAMED[f"{side}_signature"]
    secret = sha256(b"names" + transcript).digest()
    assert secret.hex() == NAMED["secret"]
    assert blake2b(bytes.fromhex(NAMED["infohash"]), key=secret, digest_size=12).hexdigest() == NAMED["name"]
    text = b"text" + bytes.fromhex(NAMED["text_key"])
    assert blake2b(text, key=secret, digest_size=12).hexdigest() == NAMED["text_name"]
    key = sha256(b"marks" + HASH.encode()).digest()
    mark = blake2b(NAMED["peer_id"].encode(), key=key, digest_size=8).hexdigest()
    assert [mark] == marks_of(HASH, [NAMED["peer_id"]]) == [NAMED["mark"]]


@pytest.mark.parametrize(("frame", "valid"), FRAMES)
def test_frames(frame: str, valid: bool) -> None:
    try:
        wire.decode(frame.encode())
    except wire.WireError:
        assert not valid
    else:
        assert valid


@pytest.mark.parametrize(("urls", "same"), URLS)
def test_which_urls_are_the_same(urls: list[str], same: bool) -> None:
    assert (normal(urls[0]) == normal(urls[1])) == same


def test_every_reason_is_in_the_document_and_marked_if_it_breaks_the_rules() -> None:
    tables = TEXT.partition("\n## The end of a link\n")[2].partition("\n## ")[0]
    rows = {line.split("`")[1]: line.split("|") for line in tables.splitlines() if line.startswith("| `")}
    assert rows.keys() == {*EndReason, *Dropped}
    assert {reason for reason in EndReason if rows[reason][2].strip() == "*"} == BROKEN_RULES


def test_every_message_and_field_is_in_the_document() -> None:
    messages = (wire.Hello, wire.Proof, wire.Have, wire.Present, wire.Offers, wire.Refused, wire.Answered, wire.Bye)
    for message in messages:
        assert f"| `{message.__struct_config__.tag}` |" in TEXT
        for field in message.__struct_fields__:
            assert f"`{field}`" in TEXT


def test_the_numbers_are_those_of_the_code() -> None:
    spec = importlib.util.spec_from_file_location("generate", DOCUMENT.parent / "generate.py")
    assert spec
    assert spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.federation() == TEXT, "run `make docs`"
    assert str(wire.MAX_FRAME) in TEXT
