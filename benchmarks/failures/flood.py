"""Clients that announce with 20 offers as fast as a node replies: python -m benchmarks.failures.flood PORT SECONDS"""

import asyncio
import sys
from time import monotonic
from typing import Final

import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

CLIENTS: Final = 20
OFFERS: Final = 20


class _Flooder(WSListener):  # type: ignore[misc]
    def __init__(self, number: int) -> None:
        self._number = number
        self._made = 0
        self.end = 0.0

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        self.announce()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:  # noqa: ARG002
        is_reply = frame.msg_type == WSMsgType.TEXT and b'"interval"' in frame.get_payload_as_bytes()
        if is_reply and monotonic() < self.end:
            self.announce()

    def announce(self) -> None:
        """Announce in one of ten swarms that all flooders share."""
        offers = [
            {"offer_id": f"{self._made + n:020}", "offer": {"type": "offer", "sdp": "v=0\r\n" * 200}}
            for n in range(OFFERS)
        ]
        self._made += OFFERS
        message = {
            "action": "announce",
            "info_hash": f"{self._made // OFFERS % 10:020}",
            "peer_id": f"-CFflood-{self._number:011}",
            "left": 1,
            "numwant": OFFERS,
            "offers": offers,
        }
        self._transport.send(WSMsgType.TEXT, msgspec.json.encode(message))


async def main(port: int, seconds: float) -> None:
    """Flood."""
    for number in range(CLIENTS):
        flooder = _Flooder(number)
        flooder.end = monotonic() + seconds
        await ws_connect(lambda flooder=flooder: flooder, f"ws://127.0.0.1:{port}/")
    await asyncio.sleep(seconds)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
