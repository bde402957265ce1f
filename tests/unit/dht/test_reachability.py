"""The nodes that are pinged to notice outages and their ends."""

from typing import Any, cast

from extensions.dht.krpc.messages import Address, Contact
from extensions.dht.krpc.reception import Reception
from extensions.dht.reachability import CANDIDATES, QUIET, UNCONFIRMED, Watch


def contacts(family: int, first: int, number: int) -> list[Contact]:
    host = {4: "192.0.2.1", 6: "2001:db8::1"}[family]
    return [Contact(bytes(20), (host, first + one)) for one in range(1, number + 1)]


class FakeMessenger:
    """Its nodes never answer; the test sets the ones that have, and the time of the last reply."""

    def __init__(self, *families: int) -> None:
        self.families = families
        self.receptions = {family: Reception(0.0) for family in families}
        self.answered: list[Contact] = []
        """The last ones first."""
        self.pinged: list[Address] = []

    def reception(self, family: int) -> Reception:
        return self.receptions[family]

    def confirmed(self, family: int, with_silent: bool = False) -> list[Contact]:
        return [one for one in self.answered if (":" in one.address[0]) == (family == 6)]

    def is_allowed(self, address: Address) -> bool:
        return not address[0].startswith("192.168.")

    def has_answered(self, address: Address) -> bool:
        return any(one.address == address for one in self.answered)

    def is_usable(self, _address: Address) -> bool:
        return True

    def ping(self, contact: Contact) -> None:
        self.pinged.append(contact.address)


def watch(messenger: FakeMessenger, known: list[Contact]) -> Watch:
    return Watch(
        cast(Any, messenger), lambda family: [one for one in known if (":" in one.address[0]) == (family == 6)]
    )


def test_nodes_that_have_answered_last_cannot_keep_up_an_outage() -> None:
    # They may belong to an attacker that has been asked in the last lookup, and now is silent.
    messenger = FakeMessenger(4)
    last, table, earlier = contacts(4, 0, CANDIDATES), contacts(4, 1000, 50), contacts(4, 2000, 50)
    for honest, known in ((table, table), (earlier, [])):
        messenger.answered = last + honest
        messenger.pinged = []
        watch(messenger, known).look(QUIET + 1)
        assert {one.address for one in honest} & set(messenger.pinged)


def test_with_two_address_families_each_node_is_pinged_in_turn() -> None:
    messenger = FakeMessenger(4, 6)
    known = [*contacts(4, 0, 10), *contacts(6, 0, 10)]
    both = watch(messenger, known)
    for _ in range(10):
        both.look(QUIET + 1)
    assert set(messenger.pinged) == {one.address for one in known}


def test_nodes_that_answer_pings_with_errors_do_not_keep_others_from_being_pinged() -> None:
    messenger = FakeMessenger(4)
    known = contacts(4, 0, 5 * UNCONFIRMED)
    one = watch(messenger, known)
    for _ in range(5):
        one.look(1.0)
    assert sorted(messenger.pinged) == [contact.address for contact in known]


def test_a_node_is_not_pinged_twice_at_a_time() -> None:
    messenger = FakeMessenger(4)
    known = contacts(4, 0, 2)
    watch(messenger, known).look(1.0)
    assert messenger.pinged == [contact.address for contact in known]


def test_nodes_that_lookups_never_use_are_not_pinged_and_no_start() -> None:
    # A client in the local network may be in the routing table, and answer during an outage.
    messenger = FakeMessenger(4)
    local = Contact(bytes(20), ("192.168.0.2", 6881))
    one = watch(messenger, [local])
    for now in (1.0, QUIET + 1):
        one.look(now)
    assert (messenger.pinged, one.knows_any, one.contacts(4)) == ([], False, [])
