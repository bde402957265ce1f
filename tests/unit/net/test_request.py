"""Request heads: what an origin server must accept and refuse, and that other parsers read valid ones alike."""

import string
from collections.abc import Generator
from http import HTTPStatus

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.http11 import Request
from websockets.streams import StreamReader

from tracker.net.request import MAX_FIELDS, MAX_MEMBERS, InvalidRequest, RequestHead

Fields = list[tuple[str, str]]

TOKEN = "-!#$%&'*+.^_`|~" + string.digits + string.ascii_letters
VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


def head(*lines: bytes, request_line: bytes = b"GET / HTTP/1.1", host: bytes | None = b"Host: t") -> bytes:
    return b"\r\n".join([request_line, *([] if host is None else [host]), *lines, b"", b""])


def refused(data: bytes) -> HTTPStatus:
    with pytest.raises(InvalidRequest) as caught:
        RequestHead(data)
    return caught.value.status


def test_a_request() -> None:
    request = RequestHead(head(b"ORIGIN:https://example.org \t", b"X-Forwarded-For: 1, 2", b"x-forwarded-for:3,,"))
    assert (request.method, request.target, request.version) == ("GET", "/", "1.1")
    assert request.get_all("origin") == ["https://example.org"]
    assert request.get_all("X-Forwarded-For") == ["1, 2", "3,,"]
    assert request.members("X-Forwarded-For") == ["1", "2", "3"]
    assert request.get_all("none") == request.members("none") == []
    assert request.combined() == {"host": "t", "origin": "https://example.org", "x-forwarded-for": "1, 2, 3,,"}
    assert not request.has_content


@pytest.mark.parametrize(
    "line",
    [
        b"GET /",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b" GET / HTTP/1.1",
        b"GET /\tHTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /\xe9 HTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b"GET / http/1.1",
        b"GET / HTTP/9",
        b"GET / HTTP/1.10",
        b"G(T / HTTP/1.1",
        b"\x16\x03\x01",
        b"",
    ],
)
def test_an_invalid_request_line_is_a_bad_request(line: bytes) -> None:
    assert refused(head(request_line=line)) == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize(
    "line",
    [
        b"no colon",
        b": no name",
        b"Bad name: x",
        b"X : space before the colon",
        b"X\t: tab before the colon",
        b" X: obs-fold",
        b"\tobs-fold",
        b"X: bare\rCR",
        b"X: bare\nLF",
        b"X: \x00",
        b"X: \x7f",
        b"\xe9: x",
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_an_invalid_field_line_is_a_bad_request(line: bytes, is_first: bool) -> None:
    lines = [line, b"Host: t"] if is_first else [b"Host: t", line]
    assert refused(head(*lines, host=None)) == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1", head()[:-2], head()[:-1], head() + b"x", b"\r\n" + head()])
def test_only_a_whole_head_is_read(data: bytes) -> None:
    assert refused(data) == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize("version", [b"0.9", b"2.0", b"9.9"])
def test_another_major_version_is_not_supported(version: bytes) -> None:
    assert refused(head(request_line=b"GET / HTTP/" + version)) == HTTPStatus.HTTP_VERSION_NOT_SUPPORTED


def test_a_higher_minor_version_is_served() -> None:
    assert RequestHead(head(request_line=b"GET / HTTP/1.7")).version == "1.7"


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"tracker.example.org",
        b"under_score:443",
        b"192.0.2.7:8000",
        b"[2001:db8::1]:8000",
        b"[::ffff:192.0.2.7]",
        b"a%20b",
        b"t:",
    ],
)
def test_a_valid_host(host: bytes) -> None:
    assert RequestHead(head(host=b"Host: " + host)).get_all("Host") == [host.decode()]


@pytest.mark.parametrize(
    "host", [b"a b", b"a,b/", b"<script>", b"t:port", b"user@t", b"[::1", b"::1", b"%zz", b"t\xe9", b"a:1:2"]
)
def test_an_invalid_host_is_a_bad_request(host: bytes) -> None:
    assert refused(head(host=b"Host: " + host)) == HTTPStatus.BAD_REQUEST


def test_http_1_1_needs_one_host_and_http_1_0_at_most_one() -> None:
    assert refused(head(host=None)) == HTTPStatus.BAD_REQUEST
    assert refused(head(b"Host: t")) == HTTPStatus.BAD_REQUEST
    assert RequestHead(head(host=None, request_line=b"GET / HTTP/1.0")).version == "1.0"
    assert refused(head(b"Host: t", request_line=b"GET / HTTP/1.0")) == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize(
    ("target", "origin_form", "host"),
    [
        (b"http://other.test/a?b", "/a?b", "other.test"),
        (b"HTTPS://other.test:8000", "/", "other.test:8000"),
        (b"http://other.test?b", "/?b", "other.test"),
    ],
)
def test_an_absolute_form_replaces_the_host(target: bytes, origin_form: str, host: str) -> None:
    request = RequestHead(head(request_line=b"GET " + target + b" HTTP/1.1"))
    assert (request.target, request.get_all("host")) == (origin_form, [host])


@pytest.mark.parametrize(
    ("request_line", "target", "host"),
    [
        (b"OPTIONS * HTTP/1.1", "*", "t"),
        (b"OPTIONS http://other.test:80 HTTP/1.1", "*", "other.test:80"),
        (b"OPTIONS http://other.test/ HTTP/1.1", "/", "other.test"),
        (b"OPTIONS http://other.test?a HTTP/1.1", "/?a", "other.test"),
        (b"OPTIONS /a HTTP/1.1", "/a", "t"),
        (b"CONNECT other.test:443 HTTP/1.1", "other.test:443", "t"),
        (b"CONNECT [2001:db8::1]:443 HTTP/1.1", "[2001:db8::1]:443", "t"),
    ],
)
def test_the_forms_of_options_and_connect(request_line: bytes, target: str, host: str) -> None:
    """RFC 9112, sections 3.2.3 and 3.2.4."""
    request = RequestHead(head(request_line=request_line))
    assert (request.target, request.get_all("host")) == (target, [host])


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET * HTTP/1.1",
        b"OPTIONS ** HTTP/1.1",
        b"GET other.test:443 HTTP/1.1",
        b"GET other.test HTTP/1.1",
        b"GET ftp://other.test/ HTTP/1.1",
        b"CONNECT /a HTTP/1.1",
        b"CONNECT * HTTP/1.1",
        b"CONNECT other.test HTTP/1.1",
        b"CONNECT :443 HTTP/1.1",
        b"CONNECT other.test: HTTP/1.1",
        b"CONNECT user@other.test:443 HTTP/1.1",
        b"CONNECT http://other.test:443 HTTP/1.1",
    ],
)
def test_a_target_in_another_form_is_a_bad_request(request_line: bytes) -> None:
    assert refused(head(request_line=request_line)) == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize("target", [b"http:///a", b"http://user@t/", b"http://[/", b"https://"])
def test_an_absolute_form_with_an_invalid_authority_is_a_bad_request(target: bytes) -> None:
    assert refused(head(request_line=b"GET " + target + b" HTTP/1.1")) == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize(
    ("lines", "has_content"),
    [
        ([], False),
        ([b"Content-Length: 0"], False),
        ([b"Content-Length: 5"], True),
        ([b"Content-Length: 5", b"Content-Length: 5, 5"], True),
        ([b"Transfer-Encoding: Chunked"], True),
        ([b"Transfer-Encoding: chunked", b"Content-Length: 0"], True),
    ],
)
def test_content_is_announced_by_its_length_or_a_transfer_coding(lines: list[bytes], has_content: bool) -> None:
    assert RequestHead(head(*lines)).has_content is has_content


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([b"Content-Length: x"], 400),
        ([b"Content-Length:"], 400),
        ([b"Content-Length: -1"], 400),
        ([b"Content-Length: +1"], 400),
        ([b"Content-Length: \xb2"], 400),
        ([b"Content-Length: " + b"1" * 21], 400),
        ([b"Content-Length: 5, 6"], 400),
        ([b"Content-Length: 5", b"Content-Length: 6"], 400),
        ([b"Transfer-Encoding: gzip"], 501),
        ([b"Transfer-Encoding: gzip, chunked"], 501),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], 501),
        ([b"Transfer-Encoding:"], 501),
    ],
)
def test_invalid_framing_is_refused(lines: list[bytes], status: int) -> None:
    assert refused(head(*lines)) == status


@st.composite
def valid_heads(draw: st.DrawFn, methods: st.SearchStrategy[str]) -> tuple[bytes, str, str, str, Fields]:
    """A valid head without framing fields, and its method, target, version and fields as they must be read."""
    method = draw(methods.filter(lambda method: method != "CONNECT"))
    target = "/" + draw(st.text(VISIBLE, max_size=20))
    version = draw(st.sampled_from(["1.0", "1.1"]))
    names = st.text(TOKEN, min_size=1, max_size=12).filter(
        lambda name: name.lower() not in ("host", "content-length", "transfer-encoding")
    )
    words = st.text(VISIBLE + "\xa0\xe9\xff", min_size=1, max_size=10)
    values = st.lists(words, max_size=3).map(" \t".join) | st.just("")
    fields = draw(st.lists(st.tuples(names, values), max_size=8))
    fields.insert(draw(st.integers(0, len(fields))), (draw(st.sampled_from(["Host", "HOST"])), "t:80"))
    spaces = st.text(" \t", max_size=2)
    lines = "".join(f"{name}:{draw(spaces)}{value}{draw(spaces)}\r\n" for name, value in fields)
    return f"{method} {target} HTTP/{version}\r\n{lines}\r\n".encode("latin-1"), method, target, version, fields


def by_h11(data: bytes) -> h11.Request:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    return event


def by_websockets(data: bytes) -> Request:
    reader = StreamReader()
    reader.feed_data(data)
    found: list[Request] = []

    def parse() -> Generator[None, None, None]:
        found.append((yield from Request.parse(reader.read_line)))

    assert list(parse()) == []
    return found[0]


@given(valid_heads(st.text(TOKEN, min_size=1, max_size=8)))
def test_valid_heads_are_read_as_h11_and_websockets_read_them(case: tuple[bytes, str, str, str, Fields]) -> None:
    data, method, target, version, fields = case
    ours, theirs, others = RequestHead(data), by_h11(data), by_websockets(data)
    assert (ours.method, ours.target, ours.version) == (method, target, version)
    assert (theirs.method, theirs.target, theirs.http_version) == tuple(
        text.encode() for text in (method, target, version)
    )
    assert (others.method, others.path, others.protocol) == (method, target, f"HTTP/{version}")
    expected: dict[str, list[str]] = {}
    for name, value in fields:
        expected.setdefault(name.lower(), []).append(value)
    for name, values in expected.items():
        assert ours.get_all(name) == ours.get_all(name.upper()) == values
        assert [value for key, value in theirs.headers if key == name.encode()] == [v.encode("latin-1") for v in values]
        assert others.headers.get_all(name) == values
    assert ours.combined() == {name: ", ".join(values) for name, values in expected.items()}


pieces = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.0\r\n",
        b"GET http://t/ HTTP/1.1\r\n",
        b"Host: t\r\n",
        b"X:y\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 5,6\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"\r",
        b"\n",
        b" ",
        b":",
        b"\t",
        b"\x00",
        b"\xe9",
        b"\r\n",
    ]
)


@given(st.lists(pieces, max_size=8).map(b"".join) | st.binary(max_size=100))
@example(b"GET / HTTP/1.1\r\nHost: t\r\n")
def test_a_head_that_is_accepted_is_valid_also_for_h11(garbage: bytes) -> None:
    data = garbage + b"\r\n\r\n" if not garbage.endswith(b"\r\n") else garbage + b"\r\n"
    try:
        ours = RequestHead(data)
    except InvalidRequest:
        return
    theirs = by_h11(data)
    assert (theirs.method.decode(), theirs.http_version.decode()) == (ours.method, ours.version)
    assert {name.decode() for name, _ in theirs.headers} == set(ours.combined())


@pytest.mark.parametrize("piece", [b"x", b"x:", b"x:\r\n", b"x: ", b" ", b"x\r\n", b"a:" + b" " * 100, b"%20"])
def test_the_longest_heads_are_refused_in_linear_time(piece: bytes) -> None:
    """With backtracking, one of these would take more than the test's time."""
    for line in (b"", b"GET ", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost:"):
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if b"\n" in piece else HTTPStatus.BAD_REQUEST
        assert refused(line + piece * 100_000 + b"\x00\r\n\r\n") == status


def test_the_number_of_field_lines_is_limited() -> None:
    def head(number: int) -> bytes:
        return b"GET / HTTP/1.1\r\nHost: t\r\n" + b"x:\r\n" * (number - 1) + b"\r\n"

    assert len(RequestHead(head(MAX_FIELDS)).get_all("x")) == MAX_FIELDS - 1
    assert refused(head(MAX_FIELDS + 1)) == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


def test_of_long_lists_only_the_first_members_are_looked_at() -> None:
    request = RequestHead(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: " + b"a," * 5000 + b"b\r\n\r\n")
    assert request.members("Connection") == ["a"] * MAX_MEMBERS
    request = RequestHead(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: " + b"a," * (MAX_MEMBERS - 1) + b"b\r\n\r\n")
    assert request.members("Connection")[-1] == "b"
    assert (
        refused(b"GET / HTTP/1.1\r\nHost: t\r\nContent-Length: " + b"5," * 5000 + b"5\r\n\r\n")
        == HTTPStatus.BAD_REQUEST
    )


@pytest.mark.parametrize(
    "lines", [b"GET / HTTP/1.1\r\nHost: ", b"CONNECT %b:80 HTTP/1.1\r\nHost: ", b"GET http://%b/ HTTP/1.1\r\nHost: "]
)
def test_a_host_has_at_most_a_thousand_characters(lines: bytes) -> None:
    def head(length: int) -> bytes:
        before = lines.replace(b"%b", b"a" * length)
        return before + (b"t" if b"%b" in lines else b"a" * length) + b"\r\n\r\n"

    assert RequestHead(head(1000))
    assert refused(head(1025)) == HTTPStatus.BAD_REQUEST
