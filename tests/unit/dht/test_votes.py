"""Which of the hosts that nodes name get a request."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from extensions.dht.krpc.messages import Address
from extensions.dht.records.votes import MAX_HOSTS, MAX_PORTS, Votes


def node(number: int) -> Address:
    return f"192.0.2.{number}", 6881


def named(*hosts: str, port: int = 80) -> list[tuple[str, Address]]:
    return [(host, (host, port)) for host in hosts]


def many(prefix: str, count: int = 100) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def test_half_of_the_hosts_are_those_that_most_nodes_name() -> None:
    votes = Votes()
    for number in range(20):
        votes.add(node(number), named(*many(f"{number}-", 20), "a", "b", "c", "d"))
    taken = [host for host, _ in votes.take(8)]
    assert set(taken[:4]) == {"a", "b", "c", "d"}
    assert len({host.partition("-")[0] for host in taken[4:]}) == 4


def test_each_node_has_a_turn_before_any_has_a_second_one() -> None:
    votes = Votes()
    for number in range(8):
        votes.add(node(number), named(*many(f"{number}-", 20)))
    turns = [host.partition("-")[0] for _ in range(2) for host, _ in votes.take(8)[4:]]
    assert len(set(turns)) == 8


def test_of_a_node_that_names_very_many_hosts_only_some_count() -> None:
    votes = Votes()
    votes.add(node(1), named(*many("x", 1000)))
    votes.add(node(2), named("a"))
    assert len(votes.hosts) == MAX_HOSTS + 1
    # A second reply is no second vote.
    votes.add(node(1), named(*many("y", 1000)))
    assert len(votes.hosts) == MAX_HOSTS + 1


def test_the_port_of_a_host_is_the_one_that_most_nodes_name() -> None:
    for _ in range(20):
        votes = Votes()
        votes.add(node(1), [("a", ("a", port)) for port in range(1, 1000)])
        for number in (2, 3):
            votes.add(node(number), named("a", port=443))
        assert votes.take(1) + votes.take(8) == [("a", 443)]


def test_discarded_hosts_are_not_taken() -> None:
    votes = Votes()
    votes.add(node(1), named("a", "b"))
    votes.discard("a")
    votes.discard("c")
    assert votes.take(8) == [("b", 80)]
    assert votes.take(8) == []


@given(st.lists(st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.integers(1, 9)), max_size=30), max_size=12))
def test_each_host_is_taken_once_as_long_as_there_are_any(replies: list[list[tuple[str, int]]]) -> None:
    votes = Votes()
    for number, reply in enumerate(replies):
        votes.add(node(number), [(host, (host, port)) for host, port in reply])
    everything = {host for reply in replies for host, _ in reply}
    assert all(len(ports) <= MAX_PORTS * len(replies) for ports in votes.hosts.values())
    taken: list[str] = []
    while some := votes.take(8):
        assert len(some) == min(8, len(everything) - len(taken))
        taken += [host for host, _ in some]
    assert Counter(taken) == Counter(everything)
