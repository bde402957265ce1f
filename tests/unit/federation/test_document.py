"""What the modules compute is what `docs/federation.md` says."""

import json
from hashlib import blake2b, sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.federation import extension, limits, link, mesh, transports, wire
from extensions.federation import session as module
from extensions.federation.reasons import BROKEN_RULES, Dropped, Fault
from extensions.federation.session import Session
from extensions.federation.settings import FederationSettings
from tests.unit.federation.links import give
from tracker.core import offers, rules
from tracker.protocol import codec

TEXT = (Path(__file__).parents[3] / "docs" / "federation.md").read_text(encoding="utf-8")
FLOWING = " ".join(TEXT.split())
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
    assert (mesh.normal(urls[0]) == mesh.normal(urls[1])) == same


def test_every_reason_is_in_the_document_and_marked_if_it_breaks_the_rules() -> None:
    rows = {line.split("`")[1]: line for line in TEXT.splitlines() if line.startswith("| `")}
    assert [reason for reason in (*Fault, *Dropped) if reason not in rows] == []
    assert {fault for fault in Fault if rows[fault].split("|")[2].startswith(" *")} == BROKEN_RULES


def test_every_message_and_field_is_in_the_document() -> None:
    messages = (wire.Hello, wire.Proof, wire.Have, wire.Offers, wire.Refused, wire.Answered, wire.Bye)
    for message in messages:
        assert f"| `{message.__struct_config__.tag}` |" in TEXT
        for field in message.__struct_fields__:
            assert f"`{field}`" in TEXT


@pytest.mark.parametrize(
    "text",
    [
        f"    {transports.SUBPROTOCOL}\n",
        f"of at most {wire.MAX_FRAME} bytes",
        f"more than {wire.SOFT_FRAME} bytes into a frame",
        f"integer: {wire.VERSION}",
        f"from 0 to {wire.MAX_COUNT}",
        f"list of 1 to {wire.MAX_OFFERS} objects",
        f"at most {wire.MAX_OFFERS} offer_ids",
        f"at most {wire.MAX_REASON} printable",
        f"at most {codec.MAX_SDP_BYTES} bytes in UTF-8",
        f"A name has {wire.NAME_LENGTH} lower-case",
        f"within {link.HANDSHAKE_TIMEOUT:.0f} s",
        f'"{module.CONTEXT.decode()}"',
        f"every {extension.TELL_PERIOD:.0f} s, if",
        f"`refused` within {link.REFUSABLE:.0f} s",
        f"is remembered for {extension.ROUTE_LIFETIME:.0f} s",
        f"in the last {link.REMEMBER:.0f} s",
        f"kept for {offers.LIFETIME:.0f} s",
        f"waits for {extension.YIELD_TO:.0f} s",
        f"alone in their swarm announce more often than others, every {rules.Rules().lonely_interval} s",
        f"at most {extension.MAX_DIALS_PER_SWARM} for one infohash",
        f"At most {mesh.MAX_DIALS} are dialed",
        f"after {mesh.FIRST_WAIT:.0f} s, then",
        f"up to {mesh.MAX_WAIT:.0f} s (listed ones: {mesh.MAX_LISTED_WAIT:.0f} s)",
        f"; {mesh.ATTEMPTS} times, and from then on",
        f"shunned for {mesh.SHUN:.0f} s",
        f"(this implementation: {FederationSettings().max_links})",
        f"without common swarms for {FederationSettings().idle_timeout:.0f} s are ended",
        f"give up after {transports.TIMEOUT:.0f} s",
        f"| {link.BYTES_PER_SECOND >> 20} MiB a second, after {link.BYTES_BURST >> 20} MiB",
        f"| {link.SWARMS_PER_SECOND:.0f} a second, after {link.SWARMS_BURST:.0f}",
        f"remembered of a link | {module.MAX_SWARMS}",
        f"remembered of all links | {mesh.MAX_NAMES}",
        f"| {link.OFFERS_PER_SECOND:.0f} a second, after {link.OFFERS_BURST:.0f}",
        f"| {rules.Rules().max_foreign_offers} a minute",
        f"| {mesh.MAX_HANDSHAKES}, and {mesh.MAX_HANDSHAKES_PER_HOST} of one",
        f"| {extension.MAX_ROUTES}, for {extension.ROUTE_LIFETIME:.0f} s",
        f"answers that come | {link.MAX_ASKED}, for {link.REMEMBER:.0f} s",
        f"for refusals | {link.MAX_REFUSABLE >> 20} MiB of SDPs, for {link.REFUSABLE:.0f} s",
        f"| {extension.CREDIT}, and {extension.CREDIT_PER_ANSWER} for each offer answered",
        f"of a link, {extension.CREDIT} peers, and {extension.CREDIT_PER_ANSWER} more for each offer",
        f"was answered there within {link.REFUSABLE:.0f} s",
        f"more than {wire.MAX_FRAME - wire.OVERHEAD} bytes as JSON",
        f"open for more than {mesh.LASTING:.0f} s is no failure",
        f"| {offers.MAX_BYTES >> 20} MiB of SDPs and {offers._OVERHEAD} bytes for each",
        f"| {link.MAX_QUEUED_OFFERS >> 20} MiB | the oldest",
        f"| {link.MAX_QUEUED >> 20} MiB | the link ends",
        f"| {limits.STUCK_AFTER:.0f} s | the link ends",
    ],
)
def test_numbers_are_those_of_the_document(text: str) -> None:
    assert text in TEXT or text in FLOWING


def test_offers_are_placed_again_as_often_as_it_says() -> None:
    assert extension.MAX_REFUSALS == 2
    assert "placed again twice at most" in FLOWING
