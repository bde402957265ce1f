"""The names of swarms on a link: only a tracker that knows the infohash can make them."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extensions.federation import filters, wire
from extensions.federation.filters import OwnSwarms, tag_of
from extensions.federation.names import LinkNames
from tests.client import HASH
from tests.unit.federation.links import own_swarms
from tracker.extension import swarm_key

ROOM = "a room"
KEY_OF_ROOM = swarm_key(ROOM).decode("latin-1")
ONE, OTHER = b"1" * 32, b"2" * 32

any_name = st.one_of(st.text(max_size=40), st.text("0123456789abcdefABCDEF_+- x\u0663\uff11", max_size=40))


def names(swarms: OwnSwarms | None = None, secret: bytes = b"secret") -> tuple[LinkNames, LinkNames]:
    """Return the names of both ends of a link. Both have `swarms` open, by default only `HASH`."""
    swarms = own_swarms(HASH) if swarms is None else swarms
    return LinkNames(swarms, secret, ONE, OTHER), LinkNames(swarms, secret, OTHER, ONE)


@pytest.mark.parametrize("info_hash", [HASH, "\xff" * 20, ROOM, "\U0001f600" * 64])
def test_the_other_side_knows_the_swarm_by_its_name(info_hash: str) -> None:
    here, there = names(own_swarms(info_hash))
    name = here.name_of(info_hash).decode()
    assert there.info_hash_of(name) == there.info_hash_of(name) == info_hash
    assert here.info_hash_of(there.name_of(info_hash).decode()) == info_hash
    assert len(name) == wire.NAME_LENGTH
    assert name == name.lower()


def test_a_name_is_made_as_the_specification_says() -> None:
    here, _ = names()
    hashed = HASH.encode("latin-1")
    tag = hashlib.sha256(b"peerservers/1 tag" + hashed).hexdigest()[:16]
    proof = hmac.new(b"secret", ONE + hashed, hashlib.sha256).hexdigest()[:16]
    assert here.name_of(HASH).decode() == tag + proof
    text = b"text" + hashlib.sha256(b"peerservers/1 text id" + ROOM.encode()).digest()[:20]
    assert tag_of(ROOM).to_bytes(8, "big") == hashlib.sha256(b"peerservers/1 tag" + text).digest()[:8]


def test_a_name_differs_by_sender_and_link_but_its_tag_does_not() -> None:
    made = [one.name_of(HASH) for secret in (b"a", b"b") for one in names(secret=secret)]
    assert len(set(made)) == 4
    assert {name[: wire.TAG_LENGTH] for name in made} == {f"{tag_of(HASH):016x}".encode()}


def test_a_name_that_is_sent_back_proves_nothing() -> None:
    here, there = names()
    assert here.info_hash_of(here.name_of(HASH).decode()) is None
    name = here.name_of(HASH).decode()
    assert there.info_hash_of(name) == HASH
    assert here.info_hash_of(name) is None, "also once it was taken at the other end"


def test_a_name_of_another_link_proves_nothing() -> None:
    here, _ = names(secret=b"one link")
    _, there = names(secret=b"another link")
    assert there.info_hash_of(here.name_of(HASH).decode()) is None


def test_the_right_tag_with_another_proof_is_not_the_swarm() -> None:
    here, there = names(own_swarms(HASH, ROOM))
    name, other = (here.name_of(info_hash).decode() for info_hash in (HASH, ROOM))
    proof = name[wire.TAG_LENGTH :]
    for wrong in ("0" * 16, proof[::-1], other[wire.TAG_LENGTH :], proof[:-1], proof + "0", ""):
        assert there.info_hash_of(name[: wire.TAG_LENGTH] + wrong) is None
    assert there.info_hash_of(other[: wire.TAG_LENGTH] + proof) is None
    assert there.info_hash_of(name) == HASH


def test_a_swarm_has_only_one_form_of_its_name() -> None:
    here, there = names()
    name = here.name_of(HASH).decode()
    tag, proof = name[:16], name[16:]
    assert tag.upper() != tag
    assert proof.upper() != proof
    for form in (
        tag.upper() + proof,
        tag + proof.upper(),
        f" {name}",
        f"{name} ",
        f"{name}\n",
        f"+{name}",
        f"0x{name}",
    ):
        assert there.info_hash_of(form) is None
    # `int` takes all of these for the same number.
    small = next(f"{n:020}" for n in range(100_000) if tag_of(f"{n:020}") < 2**48)
    here, there = names(own_swarms(small))
    name = here.name_of(small).decode()
    assert name.startswith("0000")
    for form in ("+" + name[1:], " " + name[1:], "0x0" + name[3:], "0_0" + name[3:], "\uff10" + name[1:]):
        assert there.info_hash_of(form) is None
    assert there.info_hash_of(name) == small


@given(any_name)
def test_nothing_else_is_a_name(name: str) -> None:
    here, there = names(own_swarms(HASH, ROOM))
    assert name not in (here.name_of(HASH).decode(), here.name_of(ROOM).decode())
    assert there.info_hash_of(name) is None


def test_a_text_swarm_has_not_the_name_of_the_binary_swarm_with_its_key() -> None:
    here = LinkNames(own_swarms(ROOM), b"secret", ONE, OTHER)
    there = LinkNames(own_swarms(KEY_OF_ROOM), b"secret", OTHER, ONE)
    assert there.info_hash_of(here.name_of(ROOM).decode()) is None
    assert here.info_hash_of(there.name_of(KEY_OF_ROOM).decode()) is None
    both = LinkNames(own_swarms(ROOM, KEY_OF_ROOM), b"secret", OTHER, ONE)
    assert both.info_hash_of(here.name_of(ROOM).decode()) == ROOM


def test_only_open_swarms_are_known() -> None:
    swarms = OwnSwarms()
    here = LinkNames(own_swarms(HASH), b"secret", ONE, OTHER)
    there = LinkNames(swarms, b"secret", OTHER, ONE)
    name = here.name_of(HASH).decode()
    for _ in range(2):
        assert there.info_hash_of(name) is None
        swarms.add(HASH)
        assert there.info_hash_of(name) == HASH
        swarms.remove(HASH)
        there.forget(HASH)
    there.forget(HASH)
    assert there.info_hash_of(name) is None


def test_of_two_swarms_with_one_tag_only_the_first_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "tag_of", lambda _: 5)
    first, second = names(own_swarms(HASH, ROOM)), names(own_swarms(ROOM, HASH))
    assert first[1].info_hash_of(first[0].name_of(HASH).decode()) == HASH
    assert first[1].info_hash_of(second[0].name_of(ROOM).decode()) is None, "the proof is another swarm's"
