"""The limits that links share: their turns on the event loop, and a budget."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from extensions.federation.limits import TURN, Budget, Gate, Turns


class Clock:
    """A clock that only tests move."""

    def __init__(self) -> None:
        self.now = 1.0

    def __call__(self) -> float:
        return self.now


async def test_all_other_tasks_run_after_one_turn_of_all_links() -> None:
    clock, order = Clock(), list[str]()
    turns = Turns(clock)

    async def link(name: str) -> None:
        for piece in range(3):
            async with turns:
                order.append(f"{name}{piece}")
                clock.now += 0.6 * TURN

    async def others() -> None:
        while len([name for name in order if name != "-"]) < 6:
            order.append("-")
            await asyncio.sleep(0)

    await asyncio.gather(link("a"), link("b"), others())
    assert sorted(name for name in order if name != "-") == ["a0", "a1", "a2", "b0", "b1", "b2"]
    runs = "".join("-" if name == "-" else "x" for name in order).split("-")
    assert max(map(len, runs)) <= 2, "two pieces take longer than a turn"


async def test_a_link_that_takes_no_time_keeps_its_turn() -> None:
    turns, order = Turns(Clock()), list[str]()

    async def link() -> None:
        for piece in range(3):
            async with turns:
                order.append(str(piece))

    async def others() -> None:
        order.append("-")

    await asyncio.gather(link(), others())
    assert order == ["0", "1", "2", "-"]


# The budget


def test_each_link_has_its_own_share_of_one_half() -> None:
    budget = Budget(1000, 5)
    assert budget.take(0, 600), "its own 100 and the common 500"
    assert not budget.take(600, 1)
    for _ in range(4):
        assert budget.take(0, 100), "no other link can take this"
        assert not budget.take(100, 1)


def test_those_that_come_first_share_the_other_half() -> None:
    budget = Budget(1000, 5)
    assert budget.take(0, 300)
    assert budget.take(0, 400)
    assert not budget.take(0, 101), "all or nothing"
    assert budget.take(0, 100)


def test_a_link_that_ends_or_shrinks_returns_its_part() -> None:
    budget = Budget(1000, 5)
    assert budget.take(0, 600)
    assert budget.take(600, -50)
    assert budget.take(0, 150)
    assert budget.take(550, -550)
    assert budget.take(0, 550)


@given(st.integers(0, 1000), st.integers(1, 10), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 500))))
def test_a_budget_is_never_exceeded_and_returns_to_what_it_was(
    total: int, links: int, wishes: list[tuple[int, int]]
) -> None:
    budget, used = Budget(total, links), [0] * links
    own = total // (2 * links)
    for link, wish in wishes:
        link %= links
        granted = budget.take(used[link], wish - used[link])
        assert granted or wish > own, "a link always has its own share"
        if granted:
            used[link] = wish
        assert sum(used) <= total
    for link in range(links):
        assert budget.take(used[link], -used[link])
    assert budget.take(0, own + total // 2)
    assert not budget.take(own + total // 2, 1)


async def test_a_dial_that_is_given_up_while_it_waits_leaves_its_place_to_others() -> None:
    gate = Gate(2)
    held = asyncio.Event()
    begun: list[str] = []

    async def dial(name: str, urgent: bool) -> None:
        async with gate.place(urgent):
            begun.append(name)
            await held.wait()

    first = [asyncio.ensure_future(dial(name, True)) for name in "ab"]
    waiting = [asyncio.ensure_future(dial(name, True)) for name in "cd"]
    await asyncio.sleep(0)
    assert begun == ["a", "b"]
    assert gate.waiting == 2
    waiting[0].cancel()
    # Its turn comes while it ends.
    first[0].cancel()
    await asyncio.wait([waiting[0], first[0]])
    assert begun == ["a", "b", "d"]
    held.set()
    await asyncio.gather(first[1], waiting[1])
    await asyncio.gather(dial("e", True), dial("f", False))
    assert gate.waiting == 0
