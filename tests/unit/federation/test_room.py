"""The link that gives way to a new one."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from extensions.federation.neighbour import MAX_MET, Account
from extensions.federation.room import UNUSED, weakest

NOW = 1000.0


@dataclass
class FakeLink:
    """The part of a link that counts here."""

    opened_at: float = 0.0
    members: int = 0
    last_shared: float = 0.0
    last_used: float = 0.0
    wanted: list[str] = field(default_factory=list)

    @property
    def account(self) -> Any:
        account = Account(self.opened_at)
        members: Any = dict.fromkeys(map(str, range(self.members)))
        account.members = members
        account.last_shared, account.last_used = self.last_shared, self.last_used
        return account


def choose(*links: FakeLink, common: bool = True) -> int | None:
    """Return the number of the link that gives way."""
    some: Any = links
    found: Any = weakest(some, NOW, common)
    return None if found is None else links.index(found)


def test_links_without_common_swarms_come_first_the_longest_without_one_before_others() -> None:
    old, idle, older = FakeLink(members=1), FakeLink(last_shared=500.0, last_used=NOW), FakeLink(last_shared=400.0)
    for common in (True, False):
        assert choose(old, idle, older, common=common) == 2
        assert choose(old, idle, common=common) == 1


def test_a_link_with_common_swarms_gives_way_only_to_another_and_if_it_is_unused() -> None:
    unused, longer = FakeLink(members=5, last_used=900.0), FakeLink(members=5, last_used=800.0)
    used = FakeLink(members=1, last_used=NOW - UNUSED)
    assert choose(used, unused, longer) == 2
    assert choose(used, unused, longer, common=False) is None
    assert choose(used) is None
    assert choose() is None


def test_a_link_that_was_opened_for_a_swarm_has_its_time() -> None:
    """Otherwise each new one would take the place of the last."""
    new = FakeLink(opened_at=NOW - 1.0, last_shared=NOW - 1.0, last_used=NOW - 1.0, wanted=["swarm"])
    assert choose(new) is None
    new.opened_at = new.last_used = NOW - UNUSED - 1.0
    assert choose(new) == 0
    stranger = FakeLink(opened_at=NOW - 1.0, last_shared=NOW - 1.0, last_used=NOW - 1.0)
    assert choose(stranger, common=False) == 0


@given(
    st.lists(
        st.builds(
            FakeLink,
            st.floats(0, NOW),
            st.integers(0, 2),
            st.floats(0, NOW),
            st.floats(0, NOW),
            st.lists(st.just("swarm"), max_size=1),
        )
    ),
    st.booleans(),
)
def test_a_link_in_use_never_gives_way(links: list[FakeLink], common: bool) -> None:
    number = choose(*links, common=common)
    if number is not None:
        link = links[number]
        assert not link.members or (common and NOW - link.last_used > UNUSED)


def test_only_peers_that_had_not_met_are_a_use_of_a_link() -> None:
    account = Account(0.0)
    account.on_answer("hash", "local", "remote", 1.0)
    assert account.last_used == 1.0
    account.on_answer("hash", "local", "remote", 2.0)
    assert account.last_used == 1.0
    account.on_answer("hash", "local", "other", 3.0)
    assert account.last_used == 3.0
    for number in range(2 * MAX_MET):
        account.on_answer("hash", "local", str(number), 4.0 + number)
    assert account.last_used == 3.0 + 2 * MAX_MET
