"""A traversal against a simple model."""

from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.krpc.messages import Address, Contact
from extensions.dht.krpc.traversal import CLOSEST, OUTSTANDING, PARALLEL, Traversal
from tests.unit.dht.test_traversal import TARGET, distance, found, host, is_silent, near, network

# Two nodes on each host, each under two ids.
POOL = [
    Contact(node.node_id, (host(number % 15), 1 + number % 2))
    for number, node in enumerate([*network(30), *(near(n) for n in range(30))])
]


def usable(address: Address) -> bool:
    return not address[0].endswith("7.1")


events = st.tuples(
    st.sampled_from(["ask", "ask", "ask", "answered", "answered", "renamed", "slow", "failed", "unknown"]),
    st.integers(0, 59),
    st.lists(st.sampled_from(POOL), max_size=4),
)


@given(st.lists(st.sampled_from(POOL), max_size=10), st.lists(events, min_size=30, max_size=120), st.booleans())
@settings(derandomize=True, max_examples=100)
def test_the_traversal_behaves_as_its_model(
    start: list[Contact], happened: list[tuple[str, int, list[Contact]]], one_per_network: bool
) -> None:
    traversal = Traversal(TARGET, start, usable, one_per_network)
    known = {*start}
    asked: list[Contact] = []
    awaited: list[Contact] = []
    slow: list[Contact] = []
    answered: list[Contact] = []

    def may_be_asked() -> list[Contact]:
        addresses = {contact.address for contact in asked}
        hosts = {contact.address[0] for contact in asked} if one_per_network else set()
        new = [contact for contact in known if contact.address not in addresses]
        return sorted((c for c in new if usable(c.address) and c.address[0] not in hosts), key=distance)

    for event, which, contacts in happened:
        under_way = [*awaited, *slow]
        chosen = under_way[which % len(under_way)] if under_way else None
        if event == "ask":
            hopeful = may_be_asked()
            contact = traversal.next()
            if contact:
                assert len(awaited) < PARALLEL
                assert len(under_way) < OUTSTANDING
                assert distance(contact) == distance(hopeful[0])
                assert sum(distance(other) < distance(contact) for other in [*awaited, *answered]) < CLOSEST
                asked.append(contact)
                awaited.append(contact)
            elif len(awaited) < PARALLEL and len(under_way) < OUTSTANDING and hopeful:
                assert sum(distance(other) <= distance(hopeful[0]) for other in [*awaited, *answered]) >= CLOSEST
        elif event == "unknown":
            stranger = POOL[which % len(POOL)]
            if stranger.address not in {contact.address for contact in under_way}:
                assert traversal.answered(stranger, contacts) is None
                traversal.slow(stranger.address)
                traversal.failed(stranger.address)
        elif chosen and event == "slow":
            traversal.slow(chosen.address)
            if chosen in awaited:
                awaited.remove(chosen)
                slow.append(chosen)
        elif chosen:
            if event in ("answered", "renamed"):
                sender = Contact(POOL[-which].node_id, chosen.address) if event == "renamed" else chosen
                candidate = traversal.answered(sender, contacts)
                assert candidate
                assert candidate.contact == sender
                answered.append(sender)
                known.update(contacts)
            else:
                traversal.failed(chosen.address)
            (awaited if chosen in awaited else slow).remove(chosen)
        assert traversal.queries == len(asked) == len({contact.address for contact in asked})
        assert is_silent(traversal) == (not awaited and not slow)
        assert sorted(found(traversal), key=distance) == found(traversal)
        assert [*map(distance, found(traversal))] == sorted(map(distance, answered))[:CLOSEST]
        if traversal.is_done:
            assert not awaited
            nearer = [distance(other) for other in may_be_asked()][:1]
            assert all(sum(distance(other) <= far for other in answered) >= CLOSEST for far in nearer)
        else:
            assert awaited or may_be_asked()
