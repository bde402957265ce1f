"""Responses: field lines that can be sent, and none that could split a response."""

from http import HTTPStatus

import h11
import pytest

from tracker.net.response import refusal, response_head


@pytest.mark.parametrize("data", [refusal(HTTPStatus.BAD_REQUEST), refusal(HTTPStatus.OK, {"X-Y": "a: b"}, "é")])
def test_another_implementation_reads_a_whole_response(data: bytes) -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "t")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response, content, end = (client.next_event() for _ in range(3))
    assert isinstance(response, h11.Response)
    assert response.status_code == int(data.split()[1])
    assert isinstance(content, h11.Data)
    assert data.endswith(b"\r\n\r\n" + content.data)
    assert isinstance(end, h11.EndOfMessage)
    assert client.next_event() is h11.NEED_DATA
    assert client.their_state is h11.MUST_CLOSE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", "two\nlines"),
        ("x", "two\r\nlines"),
        ("x", "\r"),
        ("x", "\x00"),
        ("x", "é"),
        ("", "x"),
        ("x y", ""),
        ("x:", ""),
    ],
)
def test_an_invalid_field_line_is_an_error(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="not a field line"):
        response_head(HTTPStatus.OK, {name: value})
