"""The extension `tokens`: over real sockets, with files that change, and as docs/tokens.md says."""

import asyncio
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from extensions.federation.extension import Federation
from extensions.tokens.extension import REFUSALS, Tokens, find_token
from extensions.tokens.token import MAX_SECRETS, MIN_SECRET, Result, check_token, make_token
from tests.client import HASH, Json, offers, raw_client
from tests.conftest import HASTY, StartTracker, TrackerProcess, environment, replace, unavailable
from tests.integration.conftest import Running
from tests.unit.fakes import peer_id
from tracker.extension import Admission, ConfigError, Request

DOCUMENT = Path(__file__).parents[2] / "docs" / "tokens.md"

A, B = peer_id(1), peer_id(2)
SECRET, NEXT = "a secret of an operator", "the secret of the next month"
HEX = HASH.encode().hex()
OTHER = "i" * 20
LATER = 4_000_000_000
"""Always the same, because it is part of the names of tests, which several processes compare."""


def refusal(result: Result) -> Json:
    return {"action": "announce", "info_hash": HASH, "failure reason": REFUSALS[result], "interval": 120}


def checks(tracker: Running) -> dict[str, float]:
    counted = {
        result.value: tracker.server.registry.get_sample_value("peerservers_tokens_total", {"result": result.value})
        for result in Result
    }
    return {result: number for result, number in counted.items() if number}


@pytest.mark.parametrize(
    "where", ["{}", "{}/", "?token={}", "announce?x=1&token={}", "prefix/{}/announce", "{}?passkey=none"]
)
@pytest.mark.parametrize("scope", ["", HEX])
async def test_a_token_in_the_url_lets_peers_meet(serve: Any, where: str, scope: str) -> None:
    tracker = await serve({"tokens": Tokens}, tokens={"enabled": True, "secrets": [SECRET]})
    url = tracker.url + where.format(make_token(SECRET, LATER, scope))
    async with raw_client(url) as a, raw_client(url) as b:
        assert (await a.announce(A))["incomplete"] == 1
        assert (await b.announce(B, offers=offers(1)))["incomplete"] == 2
        assert (await a.receive())["offer_id"] == "0" * 20
        assert (await a.announce(A))["incomplete"] == 2
    assert checks(tracker) == {"valid": 2}, "a member is not asked again"


@pytest.mark.parametrize(
    ("path", "result"),
    [
        ("", Result.MISSING),
        ("announce", Result.MISSING),
        ("?token=", Result.MISSING),
        (make_token(SECRET, 1_700_000_000), Result.EXPIRED),
        (make_token(SECRET, LATER, "11" * 20), Result.OTHER_INFOHASH),
        (make_token(NEXT, LATER), Result.INVALID),
        (make_token(SECRET, LATER)[:-1], Result.INVALID),
        (make_token(SECRET, LATER).replace(str(LATER), str(LATER + 1)), Result.INVALID),
        ("?token=%ff", Result.INVALID),
    ],
)
async def test_a_peer_without_a_valid_token_is_told_why_and_keeps_its_socket(
    serve: Any, path: str, result: Result
) -> None:
    tracker = await serve({"tokens": Tokens}, tokens={"enabled": True, "secrets": [SECRET]})
    async with raw_client(tracker.url + path) as a:
        assert await a.announce(A, offers=offers(2)) == refusal(result)
        assert await a.announce(A) == refusal(result)
        assert tracker.server.hub.swarms == {}
        assert (await a.announce(A, token=make_token(SECRET, LATER)))["incomplete"] == 1
    assert checks(tracker) == {result.value: 2, "valid": 1}
    assert tracker.server.hub.counters.dropped["admission_denied"] == 2


async def test_a_member_whose_token_expires_needs_another_or_leaves(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = await serve({"tokens": Tokens}, tokens={"enabled": True, "secrets": [SECRET]})
    # It expires at once, on the tracker's monotonic clock: the wall clock of the extension is behind.
    expires = int(time.time()) - 100
    monkeypatch.setattr("extensions.tokens.extension.time.time", lambda: float(expires) - 1e-6)
    async with raw_client(tracker.url + make_token(SECRET, expires)) as a:
        assert (await a.announce(A))["incomplete"] == 1
        monkeypatch.undo()
        assert (await a.announce(A, token=make_token(SECRET, LATER)))["incomplete"] == 1, "a new one in time"
        assert (await a.announce(A))["incomplete"] == 1, "which is not needed in each announce"
    async with raw_client(tracker.url + make_token(SECRET, expires)) as b:
        monkeypatch.setattr("extensions.tokens.extension.time.time", lambda: float(expires) - 1e-6)
        assert (await b.announce(B))["incomplete"] == 1
        monkeypatch.undo()
        assert await b.announce(B) == refusal(Result.EXPIRED)
        assert tracker.server.hub.swarms == {}
    assert tracker.server.hub.counters.dropped["admission_ended"] == 1


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a tracker with the extension, whose secrets are in a file."""
    (tmp_path / "secrets").write_text(f"{SECRET}\n")
    path = str(tmp_path / "secrets")
    return environment("extensions.tokens", enabled=True, secrets_file=path)


async def joins(tracker: TrackerProcess, token: str) -> bool:
    async with raw_client(tracker.url + token) as client:
        return "failure reason" not in await client.announce(A)


async def test_secrets_change_when_their_file_does(
    start_tracker: StartTracker, installed: dict[str, str], tmp_path: Path
) -> None:
    tracker = await start_tracker(env=installed, program=HASTY)
    old, new = make_token(SECRET, LATER), make_token(NEXT, LATER)
    assert (await joins(tracker, old), await joins(tracker, new)) == (True, False)

    replace(tmp_path / "secrets", f"{NEXT}\n{SECRET}\n".encode())
    tracker.tell(signal.SIGHUP)
    await tracker.logged("reloaded")
    assert (await joins(tracker, old), await joins(tracker, new)) == (True, True)

    replace(tmp_path / "secrets", b"weak\n")
    failed = await tracker.logged("reload_failed")
    assert failed["error"].endswith("a secret has less than 16 characters")
    assert await joins(tracker, new), "the old secrets stay"
    assert await tracker.metric("peerservers_reloads_total", result="failed") == 1
    # It may have noticed the first change before the signal.
    tracker.log.clear()

    replace(tmp_path / "secrets", f"{NEXT}\n".encode())
    await tracker.logged("files_reloaded")
    assert (await joins(tracker, old), await joins(tracker, new)) == (False, True)
    assert await tracker.metric("peerservers_tokens_total", result="invalid") == 2


@pytest.mark.parametrize("secrets", [{}, {"secrets": ["short"]}, {"secrets_file": "/nowhere/secrets"}])
async def test_without_secrets_the_tracker_does_not_start(serve: Any, secrets: Json) -> None:
    with pytest.raises(ConfigError, match=r"^extensions\.tokens\.secrets"):
        await serve({"tokens": Tokens}, tokens={"enabled": True, **secrets})


async def test_it_is_off_by_default(serve: Any) -> None:
    tracker = await serve({"tokens": Tokens})
    assert not tracker.server.hub.pending.required
    async with raw_client(tracker.url) as a:
        assert (await a.announce(A))["incomplete"] == 1


@pytest.mark.parametrize("order", [("federation", "tokens"), ("tokens", "federation")])
async def test_beside_federation_the_policy_must_be_chosen(
    serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, order: tuple[str, str]
) -> None:
    monkeypatch.setenv("PEERSERVERS_SERVER__STATE_DIR", str(tmp_path))
    classes = {name: {"federation": Federation, "tokens": Tokens}[name] for name in order}
    section = {"enabled": True, "secrets": [SECRET]}
    with pytest.raises(ConfigError, match=r"^extensions\.federation\.policy: must be set"):
        await serve(classes, tokens=section)
    for policy in ("allow", "open"):
        monkeypatch.setenv("PEERSERVERS_SERVER__STATE_DIR", str(tmp_path / policy))
        await serve(classes, tokens=section, federation={"policy": policy})
    await serve(classes, tokens=section, federation={"enabled": False})


@pytest.mark.parametrize(
    ("fields", "target", "found"),
    [
        ({"token": "a"}, "/1.c?token=b", "a"),
        ({"token": 7}, "/1.c?token=b", "b"),
        ({"token": ""}, "/1.c?token=b&token=d", "b"),
        ({}, "/1.c/2.d", "1.c"),
        ({}, "/1%2Ec", "1.c"),
        ({}, "/announce?x=y", ""),
        ({}, "/v1.2/index.html", ""),
        ({}, "", ""),
    ],
)
def test_the_place_of_a_token(fields: Json, target: str, found: str) -> None:
    path, _, query = target.partition("?")
    assert find_token(Admission(HASH, A, "192.0.2.1", Request(path, query, {}), fields)) == found


def test_the_document_tells_the_reasons_and_limits() -> None:
    text = DOCUMENT.read_text()
    assert re.findall(r"^\| `(token [^`]*)` \|", text, re.MULTILINE) == list(REFUSALS.values())
    assert f"at least {MIN_SECRET} characters" in text
    assert f"up to {MAX_SECRETS}." in text
    for result in Result:
        assert f"`{result.value}`" in text


def snippet(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.mark.parametrize("info_hash", ["", HEX])
def test_the_document_makes_tokens_in_python(info_hash: str) -> None:
    names: dict[str, Any] = {}
    exec(snippet("python"), names)
    checked = check_token(names["new_token"](SECRET, 60, info_hash), [SECRET], time.time(), HEX)
    assert checked.result is Result.VALID
    assert 50 < checked.expires - time.time() <= 60


@pytest.mark.parametrize("info_hash", ["", HEX])
async def test_the_document_makes_tokens_in_javascript(tmp_path: Path, info_hash: str) -> None:
    node = shutil.which("node")
    if node is None:
        unavailable("node")
    assert node
    script = tmp_path / "make.mjs"
    script.write_text(f"{snippet('javascript')}\nconsole.log(newToken('{SECRET}', 600, '{info_hash}'))\n")
    process = await asyncio.create_subprocess_exec(node, str(script), stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    checked = check_token(output.decode().strip(), [SECRET], time.time(), HEX)
    assert checked.result is Result.VALID
    assert 0 < checked.expires - time.time() <= 600
