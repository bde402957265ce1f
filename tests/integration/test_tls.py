"""wss:// and https:// by the tracker itself: the certificate, its renewal, and data that is no TLS."""

import asyncio
import signal
import ssl
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Pair
from tests.client import HASH, PATIENCE, announce, answer, eventually, offers, raw_client
from tests.conftest import HASTY, StartTracker, TrackerProcess, environment
from tests.integration.test_life import assert_one_line, peerservers
from tests.integration.wire import HANDSHAKE
from tests.unit.fakes import peer_id

A, B = peer_id(1), peer_id(2)
EXPIRES = "peerservers_certificate_expiry_timestamp_seconds"


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def url(tracker: TrackerProcess) -> str:
    return tracker.url.replace("ws:", "wss:")


async def exchange(tracker: TrackerProcess, data: bytes, **options: Any) -> bytes:
    """Send data; return all data until the end of the connection."""
    reader, writer = await asyncio.open_connection(tracker.host, tracker.port, **options)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def get(tracker: TrackerProcess, pair: Pair, path: str, *headers: str) -> tuple[int, str]:
    """Send an https request; return the status and the body."""
    lines = "".join(f"{header}\r\n" for header in headers)
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"
    head, _, body = (await exchange(tracker, request.encode(), **pair.client())).partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


async def shown(tracker: TrackerProcess) -> bytes:
    """Return the certificate that the tracker shows to a new client, as DER."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(tracker.host, tracker.port, ssl=context)
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.transport.abort()
    return certificate


async def metric(tracker: TrackerProcess, pair: Pair, name: str) -> float:
    lines = (await get(tracker, pair, "/metrics"))[1].splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)


async def test_peers_meet_over_tls(start_tracker: StartTracker, pair: Pair) -> None:
    tracker = await start_tracker(env=pair.env)
    async with raw_client(url(tracker), **pair.client()) as a, raw_client(url(tracker), **pair.client()) as b:
        await b.announce(B)
        await a.announce(A, offers=offers(1))
        offer = await b.receive()
        await b.send(answer(B, A, offer["offer_id"]))
        assert (await a.receive())["peer_id"] == B


async def test_https(start_tracker: StartTracker, pair: Pair) -> None:
    tracker = await start_tracker(env=pair.env)
    assert (await get(tracker, pair, "/health"))[0] == 200
    assert (await get(tracker, pair, "/nope"))[0] == 404
    assert "<code>wss://localhost</code>" in (await get(tracker, pair, "/"))[1]
    expires = await metric(tracker, pair, EXPIRES)
    assert expires == pair.expires.timestamp()


async def test_one_file_with_certificate_and_key(start_tracker: StartTracker, pair: Pair) -> None:
    pair.certificate.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
    tracker = await start_tracker(env=environment("tls", certificate=str(pair.certificate)))
    assert (await get(tracker, pair, "/health"))[0] == 200
    assert await metric(tracker, pair, EXPIRES) == pair.expires.timestamp()


async def test_old_versions_are_refused_and_http_2_is_not_promised(start_tracker: StartTracker, pair: Pair) -> None:
    tracker = await start_tracker(env=pair.env)
    options = pair.client()
    options["ssl"].set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection(tracker.host, tracker.port, **options)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    writer.transport.abort()
    old = pair.client()
    old["ssl"].set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old["ssl"].minimum_version = old["ssl"].maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(tracker.host, tracker.port, **old)
    assert (await get(tracker, pair, "/health"))[0] == 200


async def test_a_renewed_certificate_is_used_after_sighup_and_open_connections_stay(
    start_tracker: StartTracker, pair: Pair
) -> None:
    tracker = await start_tracker(env=pair.env)
    async with raw_client(url(tracker), **pair.client()) as client:
        await client.announce(A)
        pair.renew(days=60)
        tracker.tell(signal.SIGHUP)
        await tracker.logged("reloaded")
        assert await shown(tracker) == pair.der
        assert (await client.announce(A))["incomplete"] == 1
    expires = await metric(tracker, pair, EXPIRES)
    assert expires == pair.expires.timestamp()


@pytest.mark.parametrize("begins_with_tls", [True, False], ids=["off", "on"])
async def test_sighup_names_settings_that_need_a_restart(
    start_tracker: StartTracker, pair: Pair, tmp_path: Path, begins_with_tls: bool
) -> None:
    file = tmp_path / "peerservers.toml"
    tls = f"[tls]\ncertificate = '{pair.certificate}'\nkey = '{pair.key}'\n"
    before, after = (tls, "") if begins_with_tls else ("", tls)
    file.write_text(before)
    tracker = await start_tracker("--config", str(file))

    async def warned(text: str) -> list[object]:
        file.write_text(text)
        tracker.log.clear()
        tracker.tell(signal.SIGHUP)
        await tracker.logged("reloaded")
        return [line["keys"] for line in tracker.log if line["event"] == "restart_needed"]

    for _ in range(2):
        # The second time too, because the tracker still runs with its first settings.
        keys = await warned(f"{after}[connections]\nping_interval = 7\n")
        assert keys == [["connections.ping_interval", "tls.certificate"]]
    assert await warned(f"{before}[limits]\nconnections_per_address = 7\n") == []
    assert (await get(tracker, pair, "/health") if begins_with_tls else await tracker.get("/health"))[0] == 200


async def test_a_renewed_certificate_is_noticed(start_tracker: StartTracker, pair: Pair) -> None:
    tracker = await start_tracker(env=pair.env, program=HASTY)
    pair.renew(days=90)
    await tracker.logged("files_reloaded")
    assert await shown(tracker) == pair.der
    tracker.log[:] = [line for line in tracker.log if line["event"] != "reload_failed"]


async def test_an_invalid_certificate_or_key_leaves_the_old_pair_in_use(
    start_tracker: StartTracker, pair: Pair
) -> None:
    tracker = await start_tracker(env=pair.env)
    before = pair.der
    expires = pair.expires.timestamp()

    async def fails_with(part: str) -> None:
        tracker.log.clear()
        tracker.tell(signal.SIGHUP)
        failed = await tracker.logged("reload_failed", "reloaded")
        assert failed["event"] == "reload_failed"
        assert failed["error"].startswith("PEERSERVERS_TLS__")
        assert part in failed["error"]
        assert await shown(tracker) == before

    pair.renew(days=60, write_key=False)
    await fails_with("is not the key of")
    pair.certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    await fails_with(str(pair.certificate))
    pair.certificate.write_text("")
    await fails_with(str(pair.certificate))
    pair.renew(passphrase=b"secret")
    await fails_with("passphrase")
    pair.key.unlink()
    await fails_with(f"{pair.key}: No such file")
    pair.der = before
    assert await metric(tracker, pair, EXPIRES) == expires
    # A valid pair is used again.
    pair.renew(days=10)
    tracker.log.clear()
    tracker.tell(signal.SIGHUP)
    await tracker.logged("reloaded")
    assert await shown(tracker) == pair.der
    assert await metric(tracker, pair, EXPIRES) == pair.expires.timestamp()
    tracker.log[:] = [line for line in tracker.log if line["event"] != "reload_failed"]


def test_an_invalid_certificate_is_an_error_of_one_line(pair: Pair, tmp_path: Path) -> None:
    certificate, key = str(pair.certificate), str(pair.key)

    def start(**tls: str) -> Any:
        return peerservers("serve", "--host", "127.0.0.1", "--port", "0", **environment("tls", **tls))

    missing = str(tmp_path / "missing.pem")
    certificate_key, key_key = "CERTIFICATE: tls.certificate: ", "KEY: tls.key: "
    assert_one_line(start(key=key), key_key, "tls.certificate must be set")
    assert_one_line(start(certificate=missing, key=key), certificate_key, f"{missing}: No such file")
    assert_one_line(start(certificate=certificate, key=missing), key_key, f"{missing}: No such file")
    assert_one_line(start(certificate=certificate), certificate_key, certificate, "name its file in tls.key")
    assert_one_line(start(certificate=key, key=key), certificate_key, key, "no certificate")
    assert_one_line(start(certificate=certificate, key=certificate), key_key, "no private key")
    assert_one_line(start(certificate=str(tmp_path), key=key), certificate_key, "directory")
    assert_one_line(start(certificate="~no-such-user/x.pem", key=key), certificate_key)
    assert_one_line(start(certificate=certificate, key="~no-such-user/x.pem"), key_key)
    pair.renew(passphrase=b"secret")
    assert_one_line(start(certificate=certificate, key=key), key_key, "passphrase")
    pair.key.write_bytes(b"\x00\xff" * 100)
    assert_one_line(start(certificate=certificate, key=key), key_key, "no private key")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: t\r\n\r\n",
        HANDSHAKE + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(505),
        b"\x16\x03\x01\xff\xff" + bytes(100_000),
        b"\x80" * 1000,
        bytes(1000),
    ],
    ids=["http", "ws", "half a hello", "long record", "high bytes", "zeros"],
)
async def test_data_that_is_no_tls(start_tracker: StartTracker, pair: Pair, data: bytes) -> None:
    tracker = await start_tracker(env=pair.env | environment("connections", handshake_timeout=1))
    for answered in await asyncio.gather(*(exchange(tracker, data) for _ in range(10))):
        # An HTTP request gets an HTTP response.
        assert answered.startswith(b"HTTP/1.1 400 ") if data.startswith(b"GET ") else b"HTTP/" not in answered
    async with raw_client(url(tracker), **pair.client()) as client:
        await client.announce(A)


async def test_clients_that_do_not_trust_the_certificate(start_tracker: StartTracker, pair: Pair) -> None:
    tracker = await start_tracker(env=pair.env)
    for _ in range(10):
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(
                tracker.host, tracker.port, ssl=ssl.create_default_context(), server_hostname="localhost"
            )
    assert (await get(tracker, pair, "/health"))[0] == 200


async def test_large_messages(start_tracker: StartTracker, pair: Pair) -> None:
    size = environment("connections", max_message_size=400_000)
    tracker = await start_tracker(env=pair.env | size)
    async with raw_client(url(tracker), **pair.client()) as a, raw_client(url(tracker), **pair.client()) as b:
        await b.announce(B)
        for number in range(5):
            sdp = chr(97 + number) * 60_000
            await a.send(announce(A, offers=offers(5, sdp=sdp, start=5 * number)))
            assert (await b.receive())["offer"]["sdp"] == sdp
            assert (await a.receive())["incomplete"] == 2


async def test_a_receiver_that_does_not_read(start_tracker: StartTracker, pair: Pair) -> None:
    """Its buffered messages are bounded also under TLS."""
    tracker = await start_tracker(env=pair.env)
    async with raw_client(url(tracker), **pair.client()) as a, raw_client(url(tracker), **pair.client()) as slow:
        await slow.announce(B)
        slow.socket.transport.pause_reading()
        number = 0

        async def drops() -> bool:
            nonlocal number
            for _ in range(20):
                number += 1
                await a.send(announce(A, offers=offers(1, sdp="x" * 60_000, start=number)))
                await a.receive()
            text = (await get(tracker, pair, "/metrics"))[1]
            return 'peerservers_dropped_total{reason="slow_receiver"} 0.0' not in text

        await eventually(drops)
        slow.socket.transport.abort()


async def test_many_handshakes_at_once(start_tracker: StartTracker, pair: Pair) -> None:
    tracker = await start_tracker(env=pair.env)
    async with AsyncExitStack() as stack:

        async def come(number: int) -> Any:
            client = await stack.enter_async_context(raw_client(url(tracker), open_timeout=60, **pair.client()))
            return await client.announce(peer_id(number))

        replies = await asyncio.gather(*map(come, range(150)))
        assert max(reply["incomplete"] for reply in replies) == 150
        assert all(reply["info_hash"] == HASH for reply in replies)
    await eventually(lambda: has_no_connections(tracker, pair))


async def has_no_connections(tracker: TrackerProcess, pair: Pair) -> bool:
    return await metric(tracker, pair, "peerservers_connections") == 0


async def test_clients_that_never_handshake_are_cut(start_tracker: StartTracker, pair: Pair) -> None:
    tracker = await start_tracker(env=pair.env | environment("connections", handshake_timeout=2))
    silent = [await asyncio.open_connection(tracker.host, tracker.port) for _ in range(50)]
    # This client is silent after the TLS handshake.
    silent.append(await asyncio.open_connection(tracker.host, tracker.port, **pair.client()))
    for reader, writer in silent:
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.transport.abort()
    assert (await get(tracker, pair, "/health"))[0] == 200


async def test_a_stop_closes_with_1001_and_waits_for_no_handshake(start_tracker: StartTracker, pair: Pair) -> None:
    tracker = await start_tracker(env=pair.env)
    _, silent = await asyncio.open_connection(tracker.host, tracker.port)
    async with raw_client(url(tracker), **pair.client()) as client:
        await client.announce(A)
        tracker.tell(signal.SIGTERM)
        assert await client.closed() == (1001, "shutdown")
    assert await tracker.stop() == 0
    assert tracker.log[-1]["event"] == "stopped"
    silent.transport.abort()
