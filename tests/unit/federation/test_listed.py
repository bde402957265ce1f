"""The state of a listed tracker that is not linked, and the texts for it."""

import errno
import socket
import ssl
import time

import pytest

from extensions.federation.listed import MAX_TEXT, Listed
from extensions.federation.reasons import EndReason
from extensions.federation.transports import words_of

URL = "wss://tracker.example.org"


def test_only_the_first_of_several_failures_is_news() -> None:
    listed = Listed(URL)
    assert listed.as_row()["state"] == "connecting"
    assert listed.on_failure(EndReason.UNREACHABLE, "Connection refused")
    since = listed.as_row()["since"]
    assert not listed.on_failure(EndReason.HANDSHAKE_TIMEOUT, "handshake_timeout")
    assert listed.as_row() == {
        "tracker": "",
        "url": URL,
        "state": "down",
        "since": since,
        "reason": "handshake_timeout",
        "next_try": 0,
    }
    listed.on_success()
    assert (listed.as_row()["state"], listed.why) == ("connecting", "")
    assert listed.on_failure(EndReason.UNREACHABLE, "Connection refused")
    assert listed.why == "unreachable: Connection refused"
    assert listed.as_row()["since"] == pytest.approx(time.time(), abs=60)


def test_the_tracker_itself_is_never_down() -> None:
    listed = Listed(URL)
    assert not listed.on_failure(EndReason.ITSELF, "itself")
    assert listed.is_itself
    assert listed.on_failure(EndReason.UNREACHABLE, ""), "the URL leads elsewhere now"
    assert not listed.is_itself


def test_a_text_of_the_other_side_is_short_and_printable() -> None:
    listed = Listed(URL)
    listed.on_failure(EndReason.LOST, "\x1b[2J\n" + "x" * 1000)
    assert listed.why == f"lost: ?[2J?{'x' * (MAX_TEXT - 5)}"


def _certificate_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:1006)")
    error.verify_message = "self-signed certificate"
    return error


def _tls_error() -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)")
    error.reason = "WRONG_VERSION_NUMBER"
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ECONNREFUSED, "Connect call failed ('192.0.2.7', 443)"), "Connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (OSError("not a name"), "not a name"),
        (TimeoutError(), "timed out"),
        (TimeoutError("timed out during opening handshake"), "timed out during opening handshake"),
        (_certificate_error(), "its certificate is not valid: self-signed certificate"),
        (_tls_error(), "TLS failed: wrong version number"),
        (ValueError(), "ValueError"),
    ],
)
def test_why_a_connection_failed(error: Exception, words: str) -> None:
    assert words_of(error) == words
