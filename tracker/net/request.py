"""The head of an HTTP/1 request, as an origin server reads it (RFC 9112, sections 3 and 5; sans I/O).

The only parser of request heads: the WebSocket handshake and plain HTTP both use it. It is strict, because a reverse
proxy and the tracker must never read one head in two ways. Its speed matters: after a restart, all clients of a
tracker connect again at once.
"""

import re
from http import HTTPStatus
from typing import Final

MAX_HEAD: Final = 16 * 1024
"""Bytes of the longest request head that is read, without its final blank line."""

MAX_FIELDS: Final = 256
"""Most field lines of a request head; browsers send about 15, and proxies add a few."""

MAX_MEMBERS: Final = 64
"""Members of a list-based field that are looked at. A head has room for thousands, which take a microsecond each."""

_MAX_HOST: Final = 1024
"""Characters of a host with its port; names in DNS have at most 253."""

_MAX_LENGTHS: Final = 200
"""Characters of the values of `Content-Length`, which proxies may repeat."""

_TOKEN: Final = r"[-!#$%&'*+.^_`|~0-9a-zA-Z]++"
_HEAD: Final = re.compile(
    rf"({_TOKEN}) ([!-~]++) HTTP/([0-9]\.[0-9])\r\n"
    # Neither obs-fold, nor whitespace before the colon, nor control characters in a value: bare CR, bare LF, NUL.
    rf"((?:{_TOKEN}:[\t -~\x80-\xff]*+\r\n)*+)\r\n"
)
_FIELD_LINES: Final = re.compile(r"([^:]++):[ \t]*+([^\r]*+)\r\n")
_ABSOLUTE_FORM: Final = re.compile(r"https?://([^/?#]*+)(.*)", re.IGNORECASE)
# A registered name or IPv4 address, or an IP literal (RFC 3986, section 3.2.2).
_URI_HOST: Final = r"(?:\[[0-9A-Fa-f:.]++\]|(?:[-._~!$&'()*+,;=0-9A-Za-z]|%[0-9A-Fa-f]{2})*+)"
_HOST: Final = re.compile(rf"{_URI_HOST}(?::[0-9]*)?")
_AUTHORITY_FORM: Final = re.compile(rf"(?!:){_URI_HOST}:[0-9]+")
_CONTENT_LENGTH: Final = re.compile(r"[0-9]{1,20}")


class InvalidRequest(Exception):
    """A request head that an origin server must not or cannot serve; `status` is that of the response."""

    def __init__(self, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(status.phrase)
        self.status = status


class RequestHead:
    """A request line and its field lines.

    Attributes:
        method: The method, which is case-sensitive.
        target: The request target in origin-form, a path and perhaps a query. An absolute-form is converted: its
            authority replaces the field `Host` (RFC 9112, section 3.2.2). It is `*` for OPTIONS of the whole server,
            and a host with a port for CONNECT.
        version: The HTTP version: `1.0`, or `1.1` and higher minor versions.
        has_content: Whether the field lines announce content behind the head. It is never read.
    """

    __slots__ = ("_fields", "has_content", "method", "target", "version")

    def __init__(self, head: bytes) -> None:
        """Parse a whole head, with its final blank line.

        Raises:
            InvalidRequest: 400 if the syntax, the form of the target, `Host` or `Content-Length` is invalid, 431 if
                there are more than `MAX_FIELDS` field lines, 501 if a transfer coding is unknown, 505 if the major
                version is not 1.
        """
        # One for the request line, and one for the blank line.
        if head.count(b"\n") > MAX_FIELDS + 2:
            raise InvalidRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        match = _HEAD.fullmatch(head.decode("latin-1"))
        if match is None:
            raise InvalidRequest
        self.method, self.target, self.version, lines = match.groups()
        if self.version[0] != "1":
            raise InvalidRequest(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        self._fields = fields = dict[str, list[str]]()
        for name, value in _FIELD_LINES.findall(lines):
            name = name.lower()
            value = value.rstrip(" \t")
            if name in fields:
                fields[name].append(value)
            else:
                fields[name] = [value]
        self._check_host()
        self.has_content = ("content-length" in fields or "transfer-encoding" in fields) and self._announces_content()
        if self.target[0] != "/" or self.method == "CONNECT":
            self._read_other_form()

    def get_all(self, name: str) -> list[str]:
        """Return the values of all field lines with a name, which may be in any case, in their order."""
        return self._fields.get(name.lower(), [])

    def members(self, name: str) -> list[str]:
        """Return the members of a list-based field over all its lines, without empty ones (RFC 9110, section 5.6.1).

        For lists of tokens: a comma in a quoted string separates, too. Only the first `MAX_MEMBERS` are looked at.
        """
        values = self._fields.get(name.lower())
        if not values:
            return []
        text = values[0] if len(values) == 1 else ",".join(values)
        parts = text.split(",", MAX_MEMBERS)[:MAX_MEMBERS]
        return [member for part in parts if (member := part.strip(" \t"))]

    def combined(self) -> dict[str, str]:
        """Return each field's combined value by its name in lower case (RFC 9110, section 5.3)."""
        return {name: ", ".join(values) for name, values in self._fields.items()}

    def _check_host(self) -> None:
        """Check the rules of RFC 9112, section 3.2. Raises `InvalidRequest`."""
        hosts = self._fields.get("host", ())
        if len(hosts) > 1 or (not hosts and self.version != "1.0"):
            raise InvalidRequest
        if hosts and not _is_host(hosts[0]):
            raise InvalidRequest

    def _announces_content(self) -> bool:
        """Return whether content follows (RFC 9112, section 6). Raises `InvalidRequest`."""
        codings = self._fields.get("transfer-encoding")
        if codings and (len(codings) > 1 or codings[0].lower() != "chunked"):
            raise InvalidRequest(HTTPStatus.NOT_IMPLEMENTED)
        values = self._fields.get("content-length")
        if not values:
            return codings is not None
        if sum(map(len, values)) > _MAX_LENGTHS:
            raise InvalidRequest
        lengths = {length.strip(" \t") for value in values for length in value.split(",")}
        length = lengths.pop()
        if lengths or not _CONTENT_LENGTH.fullmatch(length):
            raise InvalidRequest
        return codings is not None or int(length) > 0

    def _read_other_form(self) -> None:
        """Read a target that is not in origin-form (RFC 9112, sections 3.2.2 to 3.2.4). Raises `InvalidRequest`."""
        match = _ABSOLUTE_FORM.fullmatch(self.target)
        if self.method == "CONNECT":
            if len(self.target) > _MAX_HOST or not _AUTHORITY_FORM.fullmatch(self.target):
                raise InvalidRequest
        elif match:
            authority, target = match.groups()
            if not authority or not _is_host(authority):
                raise InvalidRequest
            if self.method == "OPTIONS" and not target:
                self.target = "*"
            else:
                self.target = target if target.startswith("/") else f"/{target}"
            self._fields["host"] = [authority]
        elif self.target != "*" or self.method != "OPTIONS":
            raise InvalidRequest


def _is_host(text: str) -> bool:
    return len(text) <= _MAX_HOST and _HOST.fullmatch(text) is not None
