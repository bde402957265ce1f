"""The modules compute what `docs/federation.md` specifies."""

import hmac
import importlib.util
import json
from hashlib import sha256
from pathlib import Path
from typing import get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.federation import wire
from extensions.federation.events import Interest, MayHave, Offered, Opened
from extensions.federation.filters import HASHES, has_tag, tag_of
from extensions.federation.handshake import LinkError
from extensions.federation.reasons import BROKEN_RULES, Dropped, EndReason
from extensions.federation.session import Session
from extensions.trackers import normal
from tests.unit.federation.links import give, own_swarms
from tracker.core.overlap import marks_of
from tracker.extension import Answer, swarm_key

DOCUMENT = Path(__file__).parents[3] / "docs" / "federation.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
BLOCKS = [block.strip("\n").split("\n") for block in TEXT.partition("\n## Test vectors\n")[2].split("```")[1::2]]
NAMED = {name: value for name, _, value in (line.partition(": ") for line in BLOCKS[0])}
FRAMES = [(frame.replace("⏎", "\n"), word == "valid") for word, _, frame in (line.partition(" ") for line in BLOCKS[1])]
DIALOGUE = [("dialer" if line[0] == ">" else "listener", line[2:].encode()) for line in BLOCKS[2]]
URLS = [(line.split()[1:], line.split()[0] == "same") for line in BLOCKS[3]]
HASH = bytes.fromhex(NAMED["infohash"]).decode("latin-1")
TEXT_HASH = NAMED["text_info_hash"]


def key_of(side: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(NAMED[f"{side}_seed"]))


def make_ends(*features: str) -> dict[str, Session]:
    """Return a dialer and a listener that have not said anything yet. Two swarms are open at both."""
    nonces = {side: bytes.fromhex(NAMED[f"{side}_nonce"]) for side in ("dialer", "listener")}
    url, swarms = NAMED["url"], own_swarms(HASH, TEXT_HASH)
    return {
        "dialer": Session(
            key_of("dialer"),
            nonces["dialer"],
            url=url,
            expected=NAMED["listener_id"],
            swarms=swarms,
            features=features,
            wanted=[HASH] if features else [],
        ),
        "listener": Session(
            key_of("listener"), nonces["listener"], accepts=url.__eq__, swarms=swarms, features=features
        ),
    }


@pytest.mark.parametrize(("side", "other"), [("dialer", "listener"), ("listener", "dialer")])
def test_a_handshake(side: str, other: str) -> None:
    session = make_ends(wire.PRESENT)[side]
    assert json.loads(session.start()) == json.loads(NAMED[f"{side}_hello"])
    _, (proof,) = session.receive(NAMED[f"{other}_hello"].encode())
    assert json.loads(proof) == json.loads(NAMED[f"{side}_proof"])
    assert json.loads(proof)["signature"] == NAMED[f"{side}_signature"]
    give(session, [NAMED[f"{other}_proof"].encode()])
    assert session.tracker_id == NAMED[f"{other}_id"]
    assert session.wanted == ([HASH] if side == "listener" else [])
    assert json.loads(session.tell([(HASH, 1, 2)])[0]) == {"type": "have", "swarms": [[NAMED[f"{side}_name"], 1, 2]]}
    told = give(session, [f'{{"type":"have","swarms":[["{NAMED[f"{other}_name"]}",3,4]]}}'.encode()])
    assert told == [Interest(HASH, 3, 4, is_new=True)]


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
    swarms = {"": bytes.fromhex(NAMED["infohash"]), "text_": b"text" + bytes.fromhex(NAMED["text_key"])}
    assert swarm_key(TEXT_HASH).hex() == NAMED["text_key"]
    bits = [0] * (8 * len(bytes.fromhex(NAMED["filter"])))
    for kind, swarm_bytes in swarms.items():
        tag = sha256(b"peerservers/1 tag" + swarm_bytes).digest()[:8]
        assert tag.hex() == NAMED[f"{kind}tag"]
        number = int.from_bytes(tag, "big")
        for i in range(HASHES):
            bits[(number % 2**24 + i * (number // 2**24 % 2**24 | 1)) % len(bits)] = 1
        for side in ("dialer", "listener"):
            if name := NAMED.get(f"{kind}{side}_name"):
                hashed = bytes.fromhex(NAMED[f"{side}_id"]) + swarm_bytes
                assert name == tag.hex() + hmac.digest(secret, hashed, "sha256")[:8].hex()
    packed = bytes(sum(bits[8 * n + bit] << bit for bit in range(8)) for n in range(len(bits) // 8))
    assert packed.hex() == NAMED["filter"]
    peer_id = NAMED["peer_id"].encode()
    for kind, key in (("", NAMED["infohash"]), ("text_", NAMED["text_key"])):
        mark = sha256(b"peerservers/1 mark" + bytes.fromhex(key) + peer_id).digest()[:8]
        assert mark.hex() == NAMED[f"{kind}mark"]
    assert marks_of(HASH, [NAMED["peer_id"]]) == [NAMED["mark"]]
    assert marks_of(TEXT_HASH, [NAMED["peer_id"]]) == [NAMED["text_mark"]]


def test_the_filter() -> None:
    bits = bytes.fromhex(NAMED["filter"])
    assert has_tag(bits, tag_of(HASH))
    assert has_tag(bits, tag_of(TEXT_HASH))
    assert bits.hex().count("0") > len(bits)


def test_the_dialogue() -> None:
    ends = make_ends()
    proofs: dict[str, bytes] = {}
    events: list[type] = []
    for side, frame in DIALOGUE:
        other = "listener" if side == "dialer" else "dialer"
        if json.loads(frame)["type"] == "hello":
            assert json.loads(ends[side].start()) == json.loads(frame)
        if json.loads(frame)["type"] == "bye":
            with pytest.raises(LinkError, match="shutdown"):
                ends[other].receive(frame)
            continue
        found, replies = ends[other].receive(frame)
        if json.loads(frame)["type"] == "proof":
            assert json.loads(proofs.pop(side)) == json.loads(frame)
        proofs |= dict.fromkeys([other] * len(replies), b"".join(replies))
        events += map(type, found)
    assert not proofs
    assert events == [Opened, Opened, MayHave, MayHave, Interest, Interest, Offered, Answer, Interest]


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
    tables = TEXT.partition("The end of a link\n")[2].partition("\n## ")[0]
    rows = {line.split("`")[1]: line.split("|") for line in tables.splitlines() if line.startswith("| `")}
    assert rows.keys() == {*EndReason, *Dropped}
    assert {reason for reason in EndReason if rows[reason][2].strip() == "*"} == BROKEN_RULES


def test_every_message_and_field_is_in_the_document() -> None:
    for message in get_args(wire.Message):
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
