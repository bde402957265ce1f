"""The page: what it shows, where the link map has its nodes, and that hostile texts are escaped."""

import gzip
import re
from html import unescape
from html.parser import HTMLParser
from itertools import combinations
from math import hypot, nan
from typing import Any

import pytest

from tracker.net.routes import Request
from tracker.web.linkmap import HEIGHT, MAX_DOTS, MAX_NAME, MIDDLE, WIDTH, link_map, name_of, short
from tracker.web.pages import MAX_FORMS, Rendered, contact_url, duration, next_try, parts, url_from

EVIL = "</svg><script>alert(1)</script>'\"&{{ 7 * 7 }}"


def links(number: int, **changes: Any) -> list[dict[str, Any]]:
    """Return a number of links, every second of which was dialed."""
    return [
        {
            "tracker": f"{n:064x}",
            "url": "" if n % 2 else f"wss://t{n}.example.org",
            "direction": "accepted" if n % 2 else "dialed",
            "since": 0,
            "shared_swarms": n * n,
            "offers_in": 5,
            **changes,
        }
        for n in range(number)
    ]


def page(**changes: Any) -> str:
    """Return the changing parts as one text."""
    shown = {
        "accepting": True,
        "seeders": 1200,
        "leechers": 34,
        "swarms": 1,
        "connections": 7,
        "federates": True,
        "links": [],
        "unlinked": [],
        "off": [],
        "tables": {},
        "version": "1.2.3",
        "uptime": "3 h 0 min",
    }
    return "".join(parts({**shown, **changes}).values())


def down(number: int, **changes: Any) -> list[dict[str, Any]]:
    """Return a number of trackers that should be linked."""
    return [
        {
            "tracker": "",
            "url": f"wss://d{n}.example.org",
            "state": "down",
            "since": 0,
            "reason": "unreachable: Connection refused",
            "next_try": 0,
            **changes,
        }
        for n in range(number)
    ]


class Outline(HTMLParser):
    """The tags and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_numbers() -> None:
    texts = Outline(page(links=links(2))).texts
    assert {"1,234", "1,200 seeding, 34 leeching", "7", "2", "Accepting peers", "swarm"} <= set(texts)
    assert "Peerservers 1.2.3 · up 3 h 0 min" in texts
    assert "Not accepting peers" in page(accepting=False)


@pytest.mark.parametrize("number", [0, 1, 2, 5, 6, 7, 11, 12, 13, 25, 100, 300])
def test_a_map_of_any_number_of_links(number: int) -> None:
    drawn = link_map(links(number))
    assert len(drawn.nodes) == (number if number <= 12 else 8)
    assert len(drawn.dots) == min(number - len(drawn.nodes), MAX_DOTS)
    assert len(drawn.nodes) + len(drawn.dots) + drawn.left_out == number
    shown = [*drawn.nodes, *drawn.dots]
    assert len({node.key for node in shown}) == len(shown)
    for node in shown:
        assert abs(node.x) + node.radius < WIDTH / 2
        assert abs(node.y) + node.radius + 20 < HEIGHT / 2
        assert hypot(node.x, node.y) > MIDDLE + node.radius
    for one, other in combinations(shown, 2):
        assert hypot(one.x - other.x, one.y - other.y) > one.radius + other.radius


@pytest.mark.parametrize("number", range(1, 20))
def test_names_do_not_touch(number: int) -> None:
    """A character is about seven units wide, and a line of text is less than fifteen units high."""
    drawn = link_map(links(number, url="", tracker="f" * 64))
    boxes = [(node.x, node.y + node.label_y, len(node.name) * 7.2 / 2) for node in drawn.nodes]
    for (x, y, half), (other_x, other_y, other_half) in combinations(boxes, 2):
        assert abs(y - other_y) >= 14 or abs(x - other_x) >= half + other_half
    assert all(abs(x) + half <= WIDTH / 2 for x, _, half in boxes)


def test_the_busiest_have_names() -> None:
    drawn = link_map(links(100))
    assert {node.number for node in drawn.nodes} == {short(n * n) for n in range(92, 100)}
    assert link_map(links(300)).left_out == 300 - 8 - MAX_DOTS


def test_nodes_keep_their_order_when_numbers_change() -> None:
    before = link_map(links(12))
    after = link_map([{**link, "shared_swarms": 500 - link["shared_swarms"]} for link in links(12)])
    assert [node.key for node in before.nodes] == [node.key for node in after.nodes]


def test_an_arrow_points_to_the_dialed_tracker() -> None:
    (dialed,) = link_map(links(1)).nodes
    (accepted,) = link_map(links(1, direction="accepted")).nodes
    (neither,) = link_map(links(1, direction="sideways")).nodes
    assert (dialed.direction, accepted.direction, neither.direction) == ("dialed", "accepted", "other")
    assert dialed.arrow.endswith("rotate(270.0)")
    assert accepted.arrow.endswith("rotate(90.0)")
    assert neither.arrow == ""


@pytest.mark.parametrize(
    ("link", "name"),
    [
        ({"url": "wss://tracker.example.org/announce", "tracker": "ab"}, "tracker.example.org"),
        ({"url": "ws://user:secret@10.0.0.7:8000", "tracker": "ab"}, "10.0.0.7:8000"),
        ({"url": "ws://[::1]:8000", "tracker": "ab"}, "[::1]:8000"),
        ({"url": "", "tracker": "0123456789abcdef" * 4}, "0123456789abcdef"),
        ({"url": "ws://[", "tracker": "0123456789abcdef" * 4}, "0123456789abcdef"),
        ({"url": None}, "unnamed"),
        ({}, "unnamed"),
    ],
)
def test_names(link: dict[str, Any], name: str) -> None:
    assert name_of(link) == name


def test_a_long_name_is_cut() -> None:
    (node,) = link_map(links(1, url="wss://" + "w" * 200)).nodes
    assert len(node.name) == MAX_NAME
    assert "w" * 200 in node.about


@pytest.mark.parametrize("number", [1, 5, 20, 100])
def test_hostile_links(number: int) -> None:
    hostile = dict.fromkeys(("tracker", "url", "direction", "shared_swarms", "since", EVIL), EVIL)
    unlinked = down(number, tracker=EVIL, url=EVIL, state=EVIL, since=EVIL, reason=EVIL, next_try=EVIL)
    text = page(links=[hostile] * number, unlinked=unlinked, tables={EVIL: [{EVIL: EVIL}]})
    harmless = Outline(page(links=links(number), unlinked=down(number), tables={"table": [{"column": 1}]}))
    outline = Outline(text)
    assert {tag for tag, _ in outline.tags} <= {tag for tag, _ in harmless.tags}
    assert {name for _, attributes in outline.tags for name in attributes} <= {
        name for _, attributes in harmless.tags for name in attributes
    }
    assert "<script" not in text
    assert EVIL in unescape(text)


def test_links_of_few_columns_and_odd_values() -> None:
    text = page(links=[{"tracker": "a"}, {"shared_swarms": -3, "url": 5}, {"since": nan, "direction": None}])
    assert text.count('class="number"') == 4


def test_trackers_that_should_be_linked() -> None:
    outline = Outline(page(links=links(2), unlinked=down(2)))
    assert {"2 listed not linked", "d0.example.org", "down", "unreachable: Connection refused", "now"} <= set(
        outline.texts
    )
    assert ("li", {"class": "down"}) in outline.tags
    unlinked = next(attributes for tag, attributes in outline.tags if attributes.get("id") == "unlinked")
    assert "hidden" not in unlinked
    drawn = link_map([*links(2), *down(2)])
    nodes = {node.name: node for node in drawn.nodes}
    assert (nodes["d0.example.org"].direction, nodes["d0.example.org"].number) == ("down", "!")
    assert nodes["d0.example.org"].arrow == ""
    assert nodes["t0.example.org"].direction == "dialed"
    assert "d0.example.org: not linked, down" in drawn.about
    assert 'id="unlinked" aria-labelledby="unlinked-title" hidden' in page(links=links(2))


def test_trackers_that_should_be_linked_are_labelled_among_many() -> None:
    drawn = link_map([*links(100), *down(2)])
    assert [node.name for node in drawn.nodes if node.direction == "down"] == ["d0.example.org", "d1.example.org"]


def test_two_listed_urls_of_one_tracker_are_two_nodes() -> None:
    assert len({node.key for node in link_map(down(2, tracker="ab")).nodes}) == 2


@pytest.mark.parametrize(
    ("when", "text"), [(0, "now"), (99.5, "now"), (100.9, "now"), (160, "in 1 min"), (nan, "now"), (EVIL, "now")]
)
def test_the_next_try(when: Any, text: str) -> None:
    assert next_try(when, 100.0) == text


def test_extensions_that_are_off() -> None:
    outline = Outline(page(off=[("dht", "libtorrent is not installed"), ("x", EVIL)]))
    assert "The extension dht is off: libtorrent is not installed." in outline.texts
    assert f"The extension x is off: {EVIL}." in outline.texts
    assert "hidden" not in next(attributes for _, attributes in outline.tags if attributes.get("id") == "off")
    assert 'id="off" class="bad" role="status" hidden' in page()


def test_other_tables() -> None:
    text = page(tables={"dht": [{"nodes_known": 1234, "reachable": True}], "others": [{"a": 1}], "empty": []})
    assert "DHT</h2>" in text
    assert "Others</h2>" in text
    assert "nodes known" in text
    assert "1,234" in text
    assert "yes" in text
    assert "Empty" not in text


def test_a_tracker_without_links_says_so() -> None:
    assert "Linked with no other tracker yet" in page()
    assert re.search(r"Linked with no other tracker\.", page(federates=False))


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        ({"host": "tracker.example.org"}, "ws://tracker.example.org"),
        ({"host": "10.0.0.7:8000"}, "ws://10.0.0.7:8000"),
        ({"host": "[::1]:8000"}, "ws://[::1]:8000"),
        ({"host": "my_tracker"}, "ws://my_tracker"),
        ({}, "ws://localhost"),
        ({"host": EVIL}, "ws://localhost"),
        ({"host": "a b"}, "ws://localhost"),
        ({"host": "a/b"}, "ws://localhost"),
        ({"host": "a\n"}, "ws://localhost"),
        ({"host": "t", "x-forwarded-proto": "https"}, "wss://t"),
        ({"host": "t", "x-forwarded-proto": "HTTPS, http"}, "wss://t"),
        ({"host": "t", "x-forwarded-proto": "http,https"}, "ws://t"),
        ({"host": "t", "x-forwarded-proto": "javascript"}, "ws://t"),
    ],
)
def test_the_url_that_a_client_used(headers: dict[str, str], url: str) -> None:
    assert url_from(headers, tls=False) == url


def test_the_url_of_a_port_with_tls() -> None:
    assert url_from({"host": "t"}, tls=True) == "wss://t"
    assert url_from({"host": "t", "x-forwarded-proto": "http"}, tls=True) == "ws://t"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h 0 min"), (90_000, "1 d 1 h"), (9e7, "1041 d 16 h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1200, "1.2k"), (15_000, "15k"), (2_500_000, "2.5M")]
)
def test_short(number: int, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("contact", "url"),
    [
        ("", ""),
        ("me@example.org", "mailto:me@example.org"),
        ("mailto:me@example.org", "mailto:me@example.org"),
        ("https://example.org/about", "https://example.org/about"),
        ("javascript:alert(1)", ""),
        ("javascript:alert(1)//me@example.org and more", ""),
        ("ask in the forum", ""),
    ],
)
def test_the_link_of_a_contact(contact: str, url: str) -> None:
    assert contact_url(contact) == url


async def test_a_rendering_serves_all_urls_that_clients_use() -> None:
    page = '<a \0data\0>\0url\0|\0magnet\0|<img src="\0base\0x"> of 2 \0url\0'
    rendered = Rendered("live", page)
    compressed = Request("/", "", {"accept-encoding": "gzip"})
    for number in range(3 * MAX_FORMS):
        body = rendered.whole(f"wss://t{number}/a&b", "/a&b")
        plain = body.response(Request("/", "", {})).body.decode()
        url = f"wss://t{number}/a&amp;b"
        magnet = f"&amp;tr=wss%3A%2F%2Ft{number}%2Fa%26b"
        assert plain == f'<a  data-base="/a&amp;b/">{url}|{magnet}|<img src="/a&amp;b/x"> of 2 {url}'
        response = body.response(compressed)
        # Clients choose the URL, so there may be any number of them: only some are worth the compression.
        assert ("content-encoding" in response.headers) is (number < MAX_FORMS)
        assert (gzip.decompress(response.body) if number < MAX_FORMS else response.body).decode() == plain
        assert body.response(compressed).body is response.body
    assert rendered.whole("wss://other", "") is not rendered.whole("wss://other", "")
    first = rendered.whole("wss://t0/a&b", "/a&b")
    assert rendered.whole("wss://t0/a&b", "/a&b") is first
    assert rendered.whole("wss://t", "").response(Request("/", "", {})).body.startswith(b"<a >wss://t|")
