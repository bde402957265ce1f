"""The layout of the page's link map: this tracker in the middle, the linked trackers around it.

This module computes positions and texts; the template and the style sheet define the look. The middle is at (0, 0). A
unit of length is about one pixel on a phone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import atan2, cos, degrees, hypot, pi, sin, sqrt
from typing import Any, Final
from urllib.parse import urlsplit

WIDTH: Final = 400
HEIGHT: Final = 368

MIDDLE: Final = 38.0
"""Radius of the circle for this tracker."""

MAX_LABELLED: Final = 12
LABELLED_OF_MANY: Final = 8
"""With more than `MAX_LABELLED` links, only the busiest ones are labelled; the others are dots around the middle."""

MAX_DOTS: Final = 92
"""Maximum number of dots."""

MAX_NAME: Final = 20
"""Maximum length of a name, so that two names fit side by side."""

_RING: Final = 5
"""Up to this number of links are placed on an ellipse; more are placed in two columns, so that names do not touch."""

_DOTS: Final = 94.0
"""Radius of the area for the dots."""

_DOT_RINGS: Final = ((66.0,), (57.0, 78.0), (50.0, 67.0, 84.0))
"""Radii of the rings of dots, for few, more and many dots."""


@dataclass(frozen=True, slots=True)
class Node:
    """A linked tracker on the map."""

    key: str
    """Identifies the node over updates of the page."""
    name: str
    """The host of its URL, or the start of its id, cut to `MAX_NAME`."""
    about: str
    """A description as text, for tooltips and screen readers."""
    direction: str
    """`dialed`, `accepted` or `other`; `down` without a link."""
    number: str
    """The number of shared swarms, in short form; `!` without a link."""
    traffic: int
    """The number of offers and answers over the link; a change shows that it is busy."""
    x: float
    y: float
    radius: float
    label_y: float
    line: str
    """The line from the middle, as an SVG path; empty for a dot."""
    arrow: str
    """The place of the arrow on the line, as an SVG transform; empty without a direction, and for a dot."""


@dataclass(frozen=True, slots=True)
class LinkMap:
    """The whole map."""

    nodes: Sequence[Node]
    dots: Sequence[Node]
    left_out: int
    """The number of links that do not fit on the map."""
    about: str
    """A description as text, for screen readers."""


def link_map(links: Sequence[Mapping[str, Any]]) -> LinkMap:
    """Return the map of these links, and of rows with a `state`, which are trackers that should be linked.

    Their columns are those that `TrackerHandle.add_table` names.
    """
    busiest = sorted(links, key=lambda link: (not link.get("state"), -_number(link, "shared_swarms")))
    labelled = len(links) if len(links) <= MAX_LABELLED else LABELLED_OF_MANY
    most = max((_number(link, "shared_swarms") for link in links), default=0) or 1

    # The order does not depend on the numbers, so that nodes keep their places while people look.
    def in_order(some: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        return sorted(some, key=lambda link: (name_of(link), str(link.get("tracker", ""))))

    large = (14.0, 24.0) if labelled <= _RING else (11.0, 16.0)
    places = _many_places() if len(links) > MAX_LABELLED else _places(labelled)
    around = _DOTS if len(links) > MAX_LABELLED else MIDDLE
    nodes = [
        _node(link, place, most, large, around)
        for link, place in zip(in_order(busiest[:labelled]), places, strict=True)
    ]
    rest = in_order(busiest[labelled : labelled + MAX_DOTS])
    dots = [_node(link, place, most, (2.5, 5.0)) for link, place in zip(rest, _dot_places(len(rest)), strict=True)]
    left_out = len(links) - len(nodes) - len(dots)
    about = "; ".join(node.about for node in nodes)
    if len(links) > len(nodes):
        about += f"; and {len(links) - len(nodes)} more"
    return LinkMap(nodes, dots, left_out, f"{about}." if about else "This tracker is linked with no other.")


def name_of(link: Mapping[str, Any]) -> str:
    """Return the name of a linked tracker for people: its URL's host and port, or else the start of its id."""
    try:
        host = urlsplit(str(link.get("url") or "")).netloc.rpartition("@")[2]
    except ValueError:
        host = ""
    return host or str(link.get("tracker", ""))[:16] or "unnamed"


def _node(
    link: Mapping[str, Any], place: tuple[float, float], most: int, radii: tuple[float, float], around: float = 0.0
) -> Node:
    """Return a node at a place.

    With `around` it has a line and an arrow, which is outside the circle of this radius; without, it is a dot. `radii`
    are those of a node without shared swarms, and of one with `most` of them.
    """
    x, y = place
    shared = _number(link, "shared_swarms")
    least, greatest = radii
    radius = least + (greatest - least) * sqrt(shared / most)
    full_name = name_of(link)
    state = link.get("state")
    direction = "down" if state else str(link.get("direction", ""))
    number = "!" if state else short(shared)
    about = f"{shared} shared swarm{'s' * (shared != 1)}{f', {direction}' if direction else ''}"
    line = arrow = ""
    if around:
        radius = max(radius, 5.0 + 3 * len(number))
        distance = hypot(x, y)
        start, end = (MIDDLE + 4) / distance, 1 - (radius + 4) / distance
        # All arrows are at one distance from the middle, where no name is.
        at = (around + 24) / distance
        line = f"M{x * start:.1f} {y * start:.1f}L{x * end:.1f} {y * end:.1f}"
        # The arrow points to the tracker that was dialed.
        turn = {"dialed": 0.0, "accepted": 180.0}.get(direction)
        if turn is not None:
            angle = (degrees(atan2(y, x)) + turn) % 360
            arrow = f"translate({x * at:.1f} {y * at:.1f}) rotate({angle:.1f})"
    return Node(
        # Two listed URLs may lead to one tracker.
        key=str((not state and link.get("tracker")) or link.get("url") or full_name),
        name=full_name if len(full_name) <= MAX_NAME else f"{full_name[: MAX_NAME - 1]}…",
        about=f"{full_name}: {f'not linked, {state}' if state else about}",
        direction=direction if direction in ("dialed", "accepted", "down") else "other",
        number=number,
        traffic=sum(_number(link, column) for column in ("offers_in", "offers_out", "answers_in", "answers_out")),
        x=round(x, 1),
        y=round(y, 1),
        radius=round(radius, 1),
        # On the side away from the middle, because the line is on the other.
        label_y=round(-radius - 7 if y < 0 else radius + 15, 1),
        line=line,
        arrow=arrow,
    )


def _places(number: int) -> list[tuple[float, float]]:
    if number <= _RING:
        first = -pi / 2 if number % 2 else -pi / 2 + pi / max(number, 1)
        return [
            (122 * cos(angle), 118 * sin(angle))
            for angle in (first + 2 * pi * place / number for place in range(number))
        ]
    right = (number + 1) // 2
    return [*_column(right, 1), *reversed(_column(number - right, -1))]


def _column(number: int, side: int) -> list[tuple[float, float]]:
    step = 280 / max(number - 1, 1)
    heights = [-140 + step * place for place in range(number)]
    return [(side * (72 + 58 * (1 - (y / 140) ** 4)), y) for y in heights]


def _many_places() -> list[tuple[float, float]]:
    right = [(72.0, -146.0), (132.0, -98.0), (132.0, 98.0), (72.0, 146.0)]
    return [*right, *((-x, y) for x, y in reversed(right))]


def _dot_places(number: int) -> Iterator[tuple[float, float]]:
    rings = _DOT_RINGS[0 if number <= 20 else 1 if number <= 48 else 2]
    left, room = number, sum(rings)
    for ring, radius in enumerate(rings):
        here = left if ring == len(rings) - 1 else round(number * radius / room)
        left -= here
        for place in range(here):
            angle = 2 * pi * (place + ring / 2) / here - pi / 2
            yield radius * cos(angle), radius * sin(angle)


def short(number: int) -> str:
    """Return a number in about four characters, such as `1.2k`."""
    for limit, unit in ((1_000_000, "M"), (1_000, "k")):
        if number >= limit:
            return f"{number / limit:.0f}{unit}" if number >= 10 * limit else f"{number / limit:.1f}{unit}"
    return str(number)


def _number(link: Mapping[str, Any], column: str) -> int:
    value = link.get(column, 0)
    return max(value, 0) if isinstance(value, int) else 0
