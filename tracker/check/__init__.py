"""`peerservers check`: test any WebTorrent tracker with a few peers, and report the steps that work."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

from tracker.check.faults import FAULTS, fault
from tracker.check.report import Outcome, Report, Result
from tracker.check.site import Site, Verdict
from tracker.check.steps import STEPS, Step
from tracker.checks import UNIX

MAX_DETAIL: Final = 200
"""The most characters of a result's detail, which may quote the tracker."""

_SCHEMES: Final = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


async def check(
    url: str, time_limit: float, context: ssl.SSLContext | None = None, say: Callable[[str], object] = lambda _: None
) -> Report:
    """Try every step on the tracker at `url`, as `tracker_url` returns it.

    `time_limit` is in seconds, for each message. `context` replaces the default of `wss://`, and turns TLS on for a
    Unix-domain socket. `say` gets the report as text, piece by piece: the name of each step before it begins, and the
    outcome after its end.
    """
    site = Site(url, time_limit, context)
    report = Report(url, width=max(len(step.name) for step in STEPS))
    say(report.head())
    for step in STEPS:
        say(report.name(step.name))
        result = Result(step.name, step.needed, Outcome.UNTRIED, "")
        if report.peers_can_meet:
            result = await _try(step, site)
        report.results.append(result)
        say(report.outcome(result))
    say(report.verdict())
    return report


async def _try(step: Step, site: Site) -> Result:
    try:
        outcome, detail = Outcome.WORKS, await step.run(site)
    except Verdict as verdict:
        outcome, detail = verdict.outcome, str(verdict)
    except FAULTS as error:
        outcome, detail = Outcome.FAULT, fault(error)
    if step.needed and outcome is Outcome.UNTRIED:
        outcome = Outcome.FAULT
    # A tracker's text must not reach the terminal with control characters in it.
    clean = "".join(letter if letter.isprintable() else "?" for letter in detail)[:MAX_DETAIL]
    return Result(step.name, step.needed, outcome, clean)


def tracker_url(text: str) -> str:
    """Return the URL of a tracker's WebSocket: `http` becomes `ws`, and `https` becomes `wss`.

    `unix:` and the path of a Unix-domain socket stay as they are. Raise `ValueError` for anything else.
    """
    if text.startswith(UNIX):
        if text == UNIX:
            raise ValueError(f"{UNIX} needs the path of a Unix-domain socket")
        return text
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise ValueError(f"{text!r} has no scheme; did you mean wss://{text}?")
    if scheme.lower() not in _SCHEMES:
        raise ValueError(f"{text!r} has the scheme {scheme!r}; it must be ws, wss, http or https")
    if any(letter.isspace() or not letter.isprintable() for letter in text):
        raise ValueError(f"{text!r} has a space or a control character in it")
    url = f"{_SCHEMES[scheme.lower()]}://{rest}"
    try:
        parse_uri(url)
        (urlsplit(url).hostname or "").encode("idna")
    except InvalidURI as error:
        raise ValueError(f"{text!r}: {error.msg}") from None
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    return url


def tls_context(authorities: Path | None, verify: bool) -> ssl.SSLContext | None:
    """Return the context of a client that also trusts the authorities in a PEM file, or that trusts any certificate.

    Return None if the defaults do. Raise `ValueError` if there is no certificate in the file.
    """
    if verify and authorities is None:
        return None
    context = ssl.create_default_context()
    if authorities:
        try:
            context.load_verify_locations(authorities)
        except ssl.SSLError:
            raise ValueError(f"{authorities} has no certificate in PEM") from None
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
