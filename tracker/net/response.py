"""HTTP/1.1 responses as bytes (RFC 9112, section 4; sans I/O)."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

_FIELD_LINE: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+: [\t -~]*")


def response_head(status: HTTPStatus, fields: Mapping[str, str]) -> bytes:
    """Return a response's status line and field lines, with the final blank line.

    Raises:
        ValueError: A name or value cannot be in a field line, such as a value with a line break.
    """
    lines = [f"{name}: {value}" for name, value in fields.items()]
    for line in lines:
        if not _FIELD_LINE.fullmatch(line):
            raise ValueError(f"not a field line: {line!r}")
    return "\r\n".join((f"HTTP/1.1 {status.value} {status.phrase}", *lines, "", "")).encode("ascii")


def refusal(status: HTTPStatus, fields: Mapping[str, str] = MappingProxyType({}), text: str = "") -> bytes:
    """Return a whole response that ends the connection; its content is `text`, or else the status."""
    content = f"{text or f'{status.value} {status.phrase}'}\n".encode()
    head = {
        "Connection": "close",
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": str(len(content)),
        **fields,
    }
    return response_head(status, head) + content
