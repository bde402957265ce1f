"""The way from swarms to the keys in the DHT, and back."""

from hypothesis import given
from hypothesis import strategies as st

from extensions.dht.swarm_keys import SwarmKeys
from tracker.extension import swarm_key

HASH = "\x00\xff" * 10
NAMES = ["a room", "\U0001f600", "\u0100" * 20]


def test_the_key_of_an_infohash_is_itself() -> None:
    keys = SwarmKeys()
    assert keys.hold(HASH) == HASH.encode("latin-1")
    keys.release(HASH)
    assert keys.info_hash_of(HASH.encode("latin-1")) == HASH


@given(st.lists(st.sampled_from(NAMES)))
def test_a_key_means_a_text_swarm_as_long_as_one_use_is_left(held: list[str]) -> None:
    keys = SwarmKeys()
    for info_hash in held:
        assert keys.hold(info_hash) == swarm_key(info_hash)
    for number, info_hash in enumerate(held):
        assert keys.info_hash_of(swarm_key(info_hash)) == info_hash
        keys.release(info_hash)
        is_left = info_hash in held[number + 1 :]
        expected = info_hash if is_left else swarm_key(info_hash).decode("latin-1")
        assert keys.info_hash_of(swarm_key(info_hash)) == expected
