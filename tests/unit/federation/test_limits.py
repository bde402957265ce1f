"""Turns: links share the event loop with all other tasks."""

import asyncio

from extensions.federation.limits import TURN, Turns


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
