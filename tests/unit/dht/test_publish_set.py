"""The choice of swarms to publish: single rules, and the whole against a simple model."""

from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.publish_set import SIZES, PublishSet

reproducible = settings(derandomize=True)


def name(number: int) -> bytes:
    return bytes([number]) * 20


A, B, C, D, E = map(name, range(5))


def set_of(limit: int, *swarms: tuple[bytes, int]) -> PublishSet:
    published = PublishSet(limit)
    for info_hash, peers in swarms:
        published.put(info_hash, peers)
    return published


def members(published: PublishSet) -> list[bytes]:
    result = [info_hash for info_hash in map(name, range(30)) if info_hash in published]
    assert len(result) == len(published)
    return result


def test_while_there_is_room_all_are_members() -> None:
    published = PublishSet(2)
    assert published.put(A, 1).added == [A]
    assert published.put(B, 100).added == [B]
    assert (members(published), published.left_out) == ([A, B], 0)


def test_a_larger_one_takes_the_place_of_the_smallest() -> None:
    published = set_of(2, (A, 4), (B, 1))
    assert published.put(C, 2).added == [C]
    assert (members(published), published.left_out) == ([A, C], 1)
    # A swarm must be larger to replace a larger one.
    assert published.put(D, 1).added == []
    assert published.left_out == 2


def test_a_newer_one_takes_the_place_of_the_oldest_that_is_no_larger() -> None:
    published = set_of(2, (A, 1), (B, 1))
    assert published.put(C, 1) == ([C], [A])
    assert members(published) == [B, C]
    assert published.put(D, 1) == ([D], [B])
    assert members(published) == [C, D]


def test_sizes_are_compared_by_their_power_of_two() -> None:
    published = set_of(1, (A, 8), (B, 7))
    assert members(published) == [A]
    assert published.put(A, 15).added == []
    assert published.put(B, 8).added == [B]
    assert members(published) == [B]


def test_a_removed_member_makes_room_for_the_largest_and_newest() -> None:
    published = set_of(1, (A, 2), (B, 2), (C, 2), (D, 1), (E, 100))
    assert members(published) == [E]
    assert published.discard(E) == [C]
    assert published.discard(B) == []
    assert published.discard(C) == [A]
    assert published.discard(A) == [D]
    assert published.discard(D) == published.discard(D) == []
    assert (len(published), published.left_out) == (0, 0)


def test_a_member_that_has_shrunk_makes_room() -> None:
    published = set_of(2, (A, 100), (B, 100), (C, 50), (D, 50))
    assert published.put(A, 1) == ([D], [A])
    assert members(published) == [B, D]


def test_without_room_there_are_no_members() -> None:
    published = set_of(0, (A, 1), (B, 1000))
    assert (members(published), published.left_out, published.discard(A)) == ([], 2, [])


def test_any_number_of_peers_has_a_size() -> None:
    published = set_of(1, (A, 0))
    for info_hash, peers in ((B, 2**31), (C, 2**100)):
        assert published.put(info_hash, peers).added == [info_hash]
    assert members(published) == [C]


def size_of(peers: int) -> int:
    return min(SIZES - 1, peers.bit_length())


events = st.tuples(st.integers(0, 11).map(name), st.sampled_from([None, None, 0, 1, 2, 3, 4, 9, 100, 2**40]))


@given(st.integers(0, 6), st.lists(events, min_size=20, max_size=80))
@reproducible
def test_the_publish_set_behaves_as_its_model(limit: int, happened: list[tuple[bytes, int | None]]) -> None:
    published = PublishSet(limit)
    swarms: dict[bytes, int] = {}
    before: set[bytes] = set()
    for info_hash, peers in happened:
        same = peers is not None and info_hash in swarms and size_of(swarms[info_hash]) == size_of(peers)
        if peers is None:
            swarms.pop(info_hash, None)
            came, went = published.discard(info_hash), list({info_hash} & before)
        else:
            swarms[info_hash] = peers
            came, went = published.put(info_hash, peers)
        now = {*members(published)}
        assert now <= {*swarms}
        assert len(now) == min(limit, len(swarms))
        assert published.left_out == len(swarms) - len(now)
        waiting = [size_of(swarms[one]) for one in swarms if one not in now]
        assert max(waiting, default=0) <= min((size_of(swarms[one]) for one in now), default=SIZES)
        assert sorted(came) == sorted(now - before)
        assert sorted(went) == sorted(before - now)
        # At most one other member is displaced.
        assert len(before - now - {info_hash}) <= (peers is not None)
        assert not same or (came, went, now) == ([], [], before)
        before = now


@given(
    st.integers(1, 6), st.lists(st.tuples(st.integers(0, 29).map(name), st.integers(0, 20)), unique_by=lambda o: o[0])
)
@reproducible
def test_of_those_that_stay_the_largest_and_of_equals_the_newest_are_members(
    limit: int, swarms: list[tuple[bytes, int]]
) -> None:
    order = {info_hash: (size_of(peers), number) for number, (info_hash, peers) in enumerate(swarms)}
    best = sorted(order, key=lambda one: order[one], reverse=True)[:limit]
    assert members(set_of(limit, *swarms)) == sorted(best)
