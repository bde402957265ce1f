"""What all links together may cost."""

import asyncio

from extensions.federation.limits import TURN, Room, Turns


def test_a_room_has_so_many_places() -> None:
    assert Room(3).left == 3


class Clock:
    """The time, which only tests move."""

    def __init__(self) -> None:
        self.now = 1.0

    def __call__(self) -> float:
        return self.now


async def test_links_have_one_turn_together_and_then_everybody_else() -> None:
    clock, order = Clock(), list[str]()
    turns = Turns(clock)

    async def link(name: str) -> None:
        for piece in range(3):
            async with turns:
                order.append(f"{name}{piece}")
                clock.now += 0.6 * TURN

    async def everybody_else() -> None:
        while len([name for name in order if name != "-"]) < 6:
            order.append("-")
            await asyncio.sleep(0)

    await asyncio.gather(link("a"), link("b"), everybody_else())
    assert sorted(name for name in order if name != "-") == ["a0", "a1", "a2", "b0", "b1", "b2"]
    runs = "".join("-" if name == "-" else "x" for name in order).split("-")
    assert max(map(len, runs)) <= 2, "two pieces take longer than a turn"


async def test_what_takes_no_time_is_not_held_up() -> None:
    turns, order = Turns(Clock()), list[str]()

    async def link() -> None:
        for piece in range(3):
            async with turns:
                order.append(str(piece))

    async def everybody_else() -> None:
        order.append("-")

    await asyncio.gather(link(), everybody_else())
    assert order == ["0", "1", "2", "-"]
