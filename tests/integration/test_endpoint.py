"""WebSockets on the wire: frames, limits, closing, and misbehaving clients."""

import asyncio
import json
import signal
import socket
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.client import HASH, Json, announce, answer, eventually, offers, raw_client
from tests.conftest import SharedTracker, StartTracker, TrackerProcess
from tests.integration.conftest import StartServer
from tests.integration.wire import HANDSHAKE, Recorder, WireClient, connected, wire
from tests.unit.fakes import peer_id
from tracker.reasons import CloseReason

A, B = peer_id(1), peer_id(2)


@pytest.fixture
async def tracker(shared_tracker: SharedTracker) -> SharedTracker:
    """Return a tracker that the tests of this module share."""
    return shared_tracker


async def until(tracker: TrackerProcess, metric: str, value: float, **labels: str) -> None:
    """Wait until a metric has a value."""

    async def has_value() -> bool:
        return await tracker.metric(metric, **labels) == value

    await eventually(has_value)


async def until_closed_as(tracker: TrackerProcess, reason: str, times: int = 1) -> None:
    await until(tracker, "peerservers_connections_closed_total", times, reason=reason)


async def test_two_peers_exchange_an_offer_and_an_answer(tracker: TrackerProcess) -> None:
    async with raw_client(tracker.url) as a, raw_client(tracker.url + "any/path?x=1") as b:
        await b.announce(B)
        await a.announce(A, offers=offers(1))
        offer = await b.receive()
        assert (offer["peer_id"], offer["offer_id"]) == (A, offers(1)[0]["offer_id"])
        await b.send(answer(B, A, offer["offer_id"]))
        assert (await a.receive())["answer"] == {"type": "answer", "sdp": "v=0\r\n"}


async def test_replies_are_text_frames_also_to_binary_ones(tracker: TrackerProcess) -> None:
    async with wire(tracker) as client:
        for opcode in (2, 1):
            client.frame(opcode, json.dumps(announce(A)).encode())
            kind, payload = await client.receive()
            assert kind == 1
            assert json.loads(payload)["info_hash"] == HASH


async def test_fragmented_messages_are_reassembled_with_pings_between(tracker: TrackerProcess) -> None:
    message = json.dumps(announce(A, info_hash="é" * 20), ensure_ascii=False).encode()
    async with wire(tracker) as client:
        for first in (1, 2):
            client.frame(first, message[:1], fin=False)
            for index in range(1, len(message)):
                client.frame(0, message[index : index + 1], fin=False)
                if index == 5:
                    client.frame(9, b"ping")
            client.frame(0, b"")
            assert await client.receive() == (10, b"ping")
            kind, payload = await client.receive()
            assert (kind, json.loads(payload)["info_hash"]) == (1, "é" * 20)


async def test_a_frame_in_one_byte_pieces(tracker: TrackerProcess) -> None:
    async with wire(tracker, None) as client:
        capture = WireClient(client.reader, Recorder())  # type: ignore[arg-type]
        capture.frame(1, json.dumps(announce(A)).encode())
        for byte in HANDSHAKE + b"\r\n" + capture.writer.data:  # type: ignore[attr-defined]
            client.writer.write(bytes([byte]))
            await client.writer.drain()
        await client.reader.readuntil(b"\r\n\r\n")
        assert json.loads((await client.receive())[1])["interval"] == 120


async def test_frames_that_come_with_the_handshake(tracker: TrackerProcess) -> None:
    recorder = Recorder()
    WireClient(None, recorder).frame(1, json.dumps(announce(A)).encode())  # type: ignore[arg-type]
    async with wire(tracker, None) as client:
        client.writer.write(HANDSHAKE + b"\r\n" + recorder.data)
        await client.reader.readuntil(b"\r\n\r\n")
        assert json.loads((await client.receive())[1])["interval"] == 120


async def test_large_messages_arrive_whole_however_many_are_buffered(start_tracker: StartTracker) -> None:
    """The messages exceed the kernel's buffers, so most of them wait in the tracker."""
    tracker = await start_tracker(env={"PEERSERVERS_CONNECTIONS__SEND_BUFFER": str(64 << 20)})
    async with wire(tracker) as slow, raw_client(tracker.url) as fast:
        slow.frame(1, json.dumps(announce(B)).encode())
        await slow.receive()
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for n in range(1500):
            await fast.announce(A, offers=offers(1, sdp=f"{n}:" + "x" * (9000 + n), start=n), left=0)
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for n in range(1500):
            kind, payload = await slow.receive()
            assert kind == 1
            assert json.loads(payload)["offer"]["sdp"] == f"{n}:" + "x" * (9000 + n)


async def test_the_connection_header_may_have_further_options(tracker: TrackerProcess) -> None:
    for header in (b"keep-alive, Upgrade", b"upgrade, keep-alive", b"UPGRADE"):
        async with wire(tracker, HANDSHAKE.replace(b"Connection: Upgrade", b"Connection: " + header)) as client:
            client.frame(1, json.dumps(announce(A)).encode())
            await client.receive()


async def test_no_compression_and_no_subprotocol_of_an_absent_extension_are_negotiated(tracker: TrackerProcess) -> None:
    offered: Any = ["peerservers.federation.1"]
    async with connect(tracker.url, compression="deflate", subprotocols=offered) as socket:
        assert socket.response is not None
        assert socket.response.headers.get("Sec-WebSocket-Extensions") is None
        assert socket.subprotocol is None


async def test_a_peer_that_offers_unknown_subprotocols_gets_the_first_and_is_served(tracker: TrackerProcess) -> None:
    """The client of `websockets` goes on without one, Chromium does not."""
    offered: Any = ["peerservers.federation.1", "webtorrent", "other"]
    async with connect(tracker.url, subprotocols=offered) as socket:
        assert socket.subprotocol == "webtorrent"
        await socket.send(json.dumps(announce(A)))
        assert json.loads(await socket.recv())["action"] == "announce"


@pytest.mark.parametrize(
    "garbage", [b"{", b"null", b"[]", b"5", b'{"action":"dance"}', b'{"action":"announce"}', b'{"x":' * 5000]
)
async def test_bad_input_gets_a_failure_and_the_socket_stays_open(tracker: TrackerProcess, garbage: bytes) -> None:
    async with raw_client(tracker.url) as client:
        await client.socket.send(garbage, text=True)
        failure = await client.receive()
        assert set(failure) == {"action", "info_hash", "failure reason"}
        assert len(failure["info_hash"]) == 20
        assert (await client.announce(A))["incomplete"] == 1


async def test_invalid_utf_8_closes_a_text_frame_with_1007_and_fails_a_binary_one(tracker: TrackerProcess) -> None:
    async with wire(tracker) as client:
        client.frame(2, b'{"action":"\xff"}')
        assert "failure reason" in json.loads((await client.receive())[1])
        client.frame(1, b'{"action":"\xff"}')
        assert await client.close_code() == 1007
    await until_closed_as(tracker, "invalid_utf8")


async def test_repeated_garbage_ends_in_1008_and_its_peer_leaves(tracker: TrackerProcess) -> None:
    async with raw_client(tracker.url) as client, raw_client(tracker.url) as other:
        await client.announce(A)
        assert (await other.announce(B))["incomplete"] == 2
        for _ in range(1000):
            try:
                await client.socket.send("garbage")
            except ConnectionClosed:
                break
        assert await client.closed() == (1008, "garbage")
        assert (await other.announce(B))["incomplete"] == 1
        await until_closed_as(tracker, "garbage")


async def test_a_flooding_client_is_not_read_after_its_close_frame(tracker: TrackerProcess) -> None:
    async with raw_client(tracker.url) as other, wire(tracker) as flooder:
        for _ in range(20):
            flooder.frame(1, b"garbage")
        assert await flooder.close_code() == 1008
        for _ in range(400):
            flooder.frame(1, bytes(60_000))
        drain = asyncio.ensure_future(flooder.writer.drain())
        await other.announce(A)
        # If the tracker read them, 24 MB would have been sent by now.
        assert not (await asyncio.wait([drain], timeout=0.3))[0]
        drain.cancel()
    await until_closed_as(tracker, "garbage")


async def test_heartbeats_of_a_page_keep_its_connection_open(tracker: TrackerProcess) -> None:
    async with raw_client(tracker.url) as page:
        await page.announce(A)
        for heartbeat in ("", "ping", '{"action":"ping"}') * 10:
            await page.socket.send(heartbeat)
        assert await page.nothing_came()
        scrapes: list[Json] = [{"info_hash": []}, {}]
        for info_hashes in scrapes * 20:
            await page.send({"action": "scrape", **info_hashes})
            assert (await page.receive())["action"] == "scrape"
        assert (await page.announce(A))["incomplete"] == 1
    assert await tracker.metric("peerservers_requests_total", type="heartbeat") == 30


async def test_a_flood_of_heartbeats_ends_in_1008(tracker: TrackerProcess) -> None:
    async with wire(tracker) as page:
        for _ in range(100):
            page.frame(1, b"")
        assert await page.close_code() == 1008
    await until_closed_as(tracker, "garbage")


async def test_a_valid_message_takes_a_strike_away(tracker: TrackerProcess) -> None:
    async with raw_client(tracker.url) as client:
        for _ in range(50):
            await client.socket.send("garbage")
            assert "failure reason" in await client.receive()
            await client.announce(A)


@pytest.mark.parametrize("opcode", [1, 2])
async def test_a_message_over_the_limit_closes_with_1009(start_tracker: StartTracker, opcode: int) -> None:
    tracker = await start_tracker(env={"PEERSERVERS_CONNECTIONS__MAX_MESSAGE_SIZE": "5000"})
    async with wire(tracker) as client:
        client.frame(opcode, json.dumps(announce(A, x="x" * 4000)).encode())
        await client.receive()
        client.frame(opcode, bytes(5001))
        assert await client.close_code() == 1009
    await until_closed_as(tracker, "too_big")


@pytest.mark.parametrize("size", [0, 1000], ids=["empty", "full"])
async def test_a_message_with_fragments_without_end_closes_with_1009(tracker: TrackerProcess, size: int) -> None:
    async with wire(tracker) as client:
        client.frame(1, b"", fin=False)
        for _ in range(2000):
            client.frame(0, bytes(size), fin=False)
        assert await client.close_code() == 1009
    await until_closed_as(tracker, "too_big")


async def test_a_protocol_error_closes_with_1002(tracker: TrackerProcess) -> None:
    """All others are in `test_websocket_cases.py`."""
    async with wire(tracker) as client:
        client.frame(1, b"{}", masked=False)
        assert await client.close_code() == 1002
    await until_closed_as(tracker, "protocol_error")


async def test_a_close_frame_is_answered_with_its_code(tracker: TrackerProcess) -> None:
    async with wire(tracker) as client:
        client.frame(8, (1001).to_bytes(2) + b"bye")
        assert await client.close_code() == 1001
        assert await client.reader.read() == b""
    await until_closed_as(tracker, "client_closed")


async def test_a_closed_and_a_lost_socket_leave_the_swarm(tracker: TrackerProcess) -> None:
    async with raw_client(tracker.url) as stays:
        async with raw_client(tracker.url) as closes, wire(tracker) as lost:
            await closes.announce(A)
            lost.frame(1, json.dumps(announce(B)).encode())
            await lost.receive()
            assert (await stays.announce(peer_id(3)))["incomplete"] == 3
        await until(tracker, "peerservers_connections", 1)
        assert (await stays.announce(peer_id(3)))["incomplete"] == 1
        await until_closed_as(tracker, "client_closed")
        await until_closed_as(tracker, "connection_lost")


async def test_a_half_closed_connection_leaves_the_swarm_however_slowly_its_client_reads(
    start_server: StartServer,
) -> None:
    server = await start_server()
    slow = await connected(server, HANDSHAKE + b"\r\n")
    await slow.reader.readuntil(b"\r\n\r\n")
    slow.frame(1, json.dumps(announce(A)).encode())
    await slow.receive()
    slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
    (websocket,) = server.endpoint.websockets
    while not websocket.blocked_since:
        websocket.send(bytes(30_000))
    slow.writer.write_eof()
    await eventually(lambda: websocket.reason is CloseReason.CONNECTION_LOST)
    assert not server.hub.swarms
    assert not websocket.send(b"{}")
    assert websocket in server.endpoint.websockets
    # The sweep cuts it after its close deadline.
    websocket.close_deadline = 0
    await eventually(lambda: not server.endpoint.websockets)
    slow.writer.transport.abort()


async def test_idle_sockets_are_pinged_and_half_open_ones_cut(start_tracker: StartTracker) -> None:
    tracker = await start_tracker(
        env={"PEERSERVERS_CONNECTIONS__PING_INTERVAL": "0.3", "PEERSERVERS_CONNECTIONS__PING_TIMEOUT": "1"}
    )
    async with wire(tracker) as silent, wire(tracker) as lively:

        async def answer_pings_until_text() -> bytes:
            while True:
                opcode, payload = await lively.receive()
                if opcode == 1:
                    return payload
                assert opcode == 9
                lively.frame(10, payload)

        text = asyncio.ensure_future(answer_pings_until_text())
        assert (await silent.receive())[0] == 9
        await silent.gone()
        lively.frame(1, json.dumps(announce(A)).encode())
        assert json.loads(await text)["interval"] == 120
    await until_closed_as(tracker, "ping_timeout")


async def test_the_buffer_of_a_stuck_receiver_is_bounded_and_its_connection_cut(start_tracker: StartTracker) -> None:
    tracker = await start_tracker(
        env={
            "PEERSERVERS_CONNECTIONS__SEND_BUFFER": "262144",
            "PEERSERVERS_CONNECTIONS__STUCK_TIMEOUT": "0.5",
        }
    )
    async with raw_client(tracker.url) as sender:
        with socket.create_connection((tracker.host, tracker.port)) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            recorder = Recorder()
            WireClient(None, recorder).frame(1, json.dumps(announce(B)).encode())  # type: ignore[arg-type]
            deaf.sendall(HANDSHAKE + b"\r\n" + recorder.data)
            async with asyncio.timeout(30):
                while (await sender.announce(A))["incomplete"] != 2:
                    pass
                while (await sender.announce(A, offers=offers(1, sdp="x" * 60_000)))["incomplete"] == 2:
                    pass
    assert await tracker.metric("peerservers_dropped_total", reason="slow_receiver") > 0
    await until_closed_as(tracker, "stuck_receiver")


async def test_messages_of_one_turn_of_the_event_loop_are_bounded(start_server: StartServer) -> None:
    """A receiver that does not read gets many messages at once, such as replies to full scrapes."""
    server = await start_server()
    deaf = await connected(server, HANDSHAKE + b"\r\n")
    await deaf.reader.readuntil(b"\r\n\r\n")
    deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
    (websocket,) = server.endpoint.websockets
    message = bytes(300_000)
    sent = [websocket.send(message) for _ in range(60)]
    await asyncio.sleep(0)
    assert not all(sent)
    assert websocket.transport.get_write_buffer_size() < server.settings.connections.send_buffer + 3 * len(message)
    assert server.endpoint.messages_dropped == sent.count(False)
    deaf.writer.transport.abort()


async def test_pongs_to_a_flooding_client_that_never_reads_are_bounded(
    start_tracker: StartTracker,
) -> None:
    tracker = await start_tracker(
        env={"PEERSERVERS_CONNECTIONS__SEND_BUFFER": "262144", "PEERSERVERS_CONNECTIONS__STUCK_TIMEOUT": "0.5"}
    )
    before = await tracker.metric("process_resident_memory_bytes")
    async with wire(tracker) as flooder:
        transport = flooder.writer.transport
        transport.pause_reading()  # type: ignore[attr-defined]
        try:
            for _ in range(400):
                for _ in range(1000):
                    flooder.frame(9, b"x" * 125)
                await flooder.writer.drain()
        except ConnectionError:
            pass
    await until(tracker, "peerservers_connections", 0)
    assert await tracker.metric("process_resident_memory_bytes") - before < 16 << 20


@pytest.mark.parametrize("opcode", [9, 10], ids=["ping", "pong"])
async def test_a_flood_of_control_frames_is_garbage(tracker: TrackerProcess, opcode: int) -> None:
    flood = Recorder()
    for _ in range(2000):
        WireClient(None, flood).frame(opcode, b"")  # type: ignore[arg-type]
    async with wire(tracker) as flooder:
        flooder.writer.write(flood.data)
        assert await flooder.close_code() == 1008
    await until_closed_as(tracker, "garbage")


async def test_many_pings_in_sequence_are_answered(tracker: TrackerProcess) -> None:
    async with wire(tracker) as client:
        for number in range(300):
            client.frame(9, b"%d" % number)
            assert await client.receive() == (10, b"%d" % number)


async def test_a_connection_without_a_request_is_cut(start_tracker: StartTracker) -> None:
    tracker = await start_tracker(env={"PEERSERVERS_CONNECTIONS__HANDSHAKE_TIMEOUT": "0.3"})
    async with wire(tracker, None) as silent, wire(tracker, None) as slow:
        slow.writer.write(b"GET / HTTP/1.1\r\nHost:")
        await silent.gone()
        await slow.gone()
    await until_closed_as(tracker, "handshake_timeout", 2)


@pytest.mark.parametrize("noise", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000])
async def test_data_that_is_no_http_request_is_refused(tracker: TrackerProcess, noise: bytes) -> None:
    async with wire(tracker, None) as client:
        client.writer.write(noise)
        await client.gone()
    await until_closed_as(tracker, "handshake_invalid")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"-Key: AAAAAAAAAAAAAAAAAAAAAA==", b"-Key: short"), 400),
        ((b"Version: 13", b"Version: 5"), 400),
        ((b"Connection: Upgrade", b"Connection: close"), 426),
    ],
)
async def test_a_bad_handshake_is_an_http_error(
    tracker: TrackerProcess, change: tuple[bytes, bytes], status: int
) -> None:
    async with wire(tracker, None) as client:
        client.writer.write(HANDSHAKE.replace(*change) + b"\r\n")
        assert (await client.reader.read()).startswith(f"HTTP/1.1 {status} ".encode())
    await until_closed_as(tracker, "handshake_invalid")


@pytest.mark.parametrize("host", ["::1", "::"])
async def test_ipv6(start_tracker: StartTracker, host: str) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    tracker = await start_tracker(host=host)
    tracker.host = "::1"
    async with raw_client(tracker.url) as six:
        await six.announce(A)
        stats = await tracker.stats()
        assert (stats["peersIPv6"], stats["peersIPv4"]) == (1, 0)
        if host == "::":
            async with raw_client(f"ws://127.0.0.1:{tracker.port}") as four:
                assert (await four.announce(B))["incomplete"] == 2, "one swarm for both"


async def test_several_addresses_share_a_port(start_tracker: StartTracker) -> None:
    tracker = await start_tracker("--host", "127.0.0.2")
    async with raw_client(tracker.url) as a, raw_client(f"ws://127.0.0.2:{tracker.port}") as b:
        await a.announce(A)
        assert (await b.announce(B))["incomplete"] == 2


async def test_a_storm_of_connections_leaves_nothing_behind(tracker: TrackerProcess) -> None:
    async def connect_and_announce(number: int) -> None:
        async with raw_client(tracker.url) as client:
            await client.announce(peer_id(number), offers=offers(3))

    before = await tracker.metric("process_open_fds")
    for _ in range(3):
        await asyncio.gather(*(connect_and_announce(n) for n in range(100)))
    await until(tracker, "peerservers_connections", 0)
    assert await tracker.metric("peerservers_swarms") == 0
    assert await tracker.metric("process_open_fds") <= before + 2


async def test_pipelined_messages_are_answered_in_order(tracker: TrackerProcess) -> None:
    async with raw_client(tracker.url) as client:
        for n in range(200):
            await client.send(announce(A, info_hash=f"{n:020}"))
        replies = [await client.receive() for _ in range(200)]
        assert [reply["info_hash"] for reply in replies] == [f"{n:020}" for n in range(200)]


async def test_refused_while_shutting_down(start_tracker: StartTracker) -> None:
    tracker = await start_tracker()
    async with wire(tracker) as client, wire(tracker, None) as late:
        await tracker.metric("peerservers_connections")
        tracker.tell(signal.SIGTERM)
        assert await client.close_code() == 1001
        late.writer.write(HANDSHAKE + b"\r\n")
        await late.gone()
        with pytest.raises((OSError, InvalidStatus)):
            await connect(tracker.url)
