"""The failures. Each function starts a cluster and returns the function that lets it fail."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any, Final

import psutil  # type: ignore[import-untyped]

from benchmarks.failures.foreign import Foreign
from benchmarks.failures.processes import OTHER_VERSION, ROOT, Tracker, free_port
from benchmarks.failures.site import Site
from benchmarks.storm import Storm
from extensions.identity import load_or_create

Fail = Callable[[Site], Awaitable[None]]
Start = Callable[[Site], Awaitable[Fail]]
NAMES: Final = ("a", "b", "c")
ENDS: Final = ('"restarted"', '"restart_failed"')
"""The events that end a rolling restart."""


async def _three(site: Site, servers: int = 1, settings: Mapping[str, object] | None = None) -> None:
    site.start_nats(servers)
    for name in NAMES:
        await site.add_node(name, settings or {})
    await site.ready()


def _node(fail: Fail) -> Start:
    async def start(site: Site) -> Fail:
        await _three(site)
        site.sick.add("a")
        return fail

    return start


def _nats(fail: Fail, servers: int = 1) -> Start:
    async def start(site: Site) -> Fail:
        await _three(site, servers)
        return fail

    return start


async def _nothing(_site: Site) -> None:
    await asyncio.sleep(10)


async def _kill_node(site: Site) -> None:
    site.node("a").is_up = False
    site.node("a").tell(signal.SIGKILL)


async def _stop_node(site: Site) -> None:
    site.node("a").is_up = False
    site.node("a").tell(signal.SIGTERM)
    process = site.node("a").process
    assert process
    await site.until(lambda: process.poll() is not None)


def _freeze_node(seconds: float) -> Fail:
    async def fail(site: Site) -> None:
        # A balancer takes some seconds to notice.
        site.node("a").tell(signal.SIGSTOP)
        await asyncio.sleep(min(3.0, seconds))
        site.node("a").is_up = seconds <= 3
        await asyncio.sleep(max(0.0, seconds - 3.0))
        site.node("a").tell(signal.SIGCONT)
        site.node("a").is_up = True

    return fail


def _kill_nats(seconds: float) -> Fail:
    async def fail(site: Site) -> None:
        site.nats[0].tell(signal.SIGKILL)
        await asyncio.sleep(seconds)
        site.nats[0].start()

    return fail


def _freeze_nats(seconds: float) -> Fail:
    async def fail(site: Site) -> None:
        site.nats[0].tell(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        site.nats[0].tell(signal.SIGCONT)

    return fail


async def _kill_nats_often(site: Site) -> None:
    for _ in range(10):
        await _kill_nats(1)(site)
        await asyncio.sleep(3)


async def _restart_nats(site: Site) -> None:
    site.nats[0].tell(signal.SIGTERM)
    assert site.nats[0].process
    await asyncio.to_thread(site.nats[0].process.wait)
    site.nats[0].start()


async def _kill_one_nats(site: Site) -> None:
    connected = [line for line in site.node("a").log.read_text().splitlines() if "nats_connected" in line]
    next(server for server in site.nats if f":{server.port}" in connected[-1]).tell(signal.SIGKILL)


async def _flood(site: Site) -> None:
    """Clients of one node announce as fast as they can."""
    port = site.node("a").port
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.failures.flood", str(port), "15"), cwd=ROOT
    )
    await process.wait()


def _link(delay: float, loss: float, rate: float, seconds: float) -> Start:
    async def start(site: Site) -> Fail:
        site.start_nats()
        for name in NAMES:
            await site.add_node(name, {}, bad_link=name == "a")
        await site.ready()

        async def fail(site: Site) -> None:
            link = site.links["a"]
            link.delay, link.loss, link.rate = delay, loss, rate
            await asyncio.sleep(seconds)
            link.delay, link.loss, link.rate = 0.0, 0.0, 0.0

        return fail

    return start


def _foreign(method: str) -> Start:
    async def start(site: Site) -> Fail:
        await _three(site)
        foreign = Foreign(site.nats[0].url)
        await foreign.start()

        async def fail(site: Site) -> None:
            if method == "replay of the dead":
                await asyncio.sleep(2)
                site.node("a").is_up = False
                site.node("a").tell(signal.SIGKILL)
            await getattr(foreign, method.split()[0])(10.0)
            site.notes.append(f"{foreign.sent} messages")
            for name in NAMES[1:]:
                site.notes.append(f"{name} knows {await site.node(name).nodes()} nodes")
            await foreign.stop()

        return fail

    return start


def _other(**settings: Any) -> Start:
    async def start(site: Site) -> Fail:
        await _three(site)

        async def fail(site: Site) -> None:
            code = OTHER_VERSION if settings.get("version") else ""
            if settings.get("key"):
                load_or_create(site.directory / "d")
            odd = {"extensions.cluster.name": settings["name"]} if "name" in settings else {}
            tracker = await site.add_node("d", odd, code)
            tracker.is_up = False
            await site.until(tracker.is_ready)
            await asyncio.sleep(8)
            for one in site.trackers:
                site.notes.append(f"{one.name} knows {await one.nodes()} nodes")

        return fail

    return start


async def _workers(site: Site, count: int) -> Tracker:
    tracker = Tracker(site.directory, "w", {"server.workers": count})
    site.trackers.append(tracker)
    site.add(tracker)
    await site.ready(count)
    return tracker


async def _kill_worker(site: Site) -> Fail:
    tracker = await _workers(site, 2)

    async def fail(_site: Site) -> None:
        psutil.Process(tracker.workers()[0]).kill()

    return fail


async def _freeze_worker(site: Site) -> Fail:
    tracker = await _workers(site, 2)

    async def fail(_site: Site) -> None:
        worker = psutil.Process(tracker.workers()[0])
        worker.suspend()
        await asyncio.sleep(10)
        worker.resume()

    return fail


async def _kill_supervisor(site: Site) -> Fail:
    tracker = await _workers(site, 2)

    async def fail(site: Site) -> None:
        workers = tracker.workers()
        tracker.tell(signal.SIGKILL)
        began = monotonic()
        await site.until(lambda: not any(psutil.pid_exists(pid) for pid in workers))
        site.notes.append(f"workers ended after {monotonic() - began:.1f} s")
        tracker.start()
        await site.until(tracker.is_ready)
        site.notes.append(f"a new tracker served after {monotonic() - began:.1f} s")

    return fail


async def _rolling_restart(site: Site) -> Fail:
    tracker = await _workers(site, 4)

    async def fail(site: Site) -> None:
        storm = Storm(tracker.port)
        tracker.tell(signal.SIGUSR2)
        storming = asyncio.create_task(asyncio.to_thread(storm.run, 60.0, 20))
        await site.until(
            lambda: any('"restarted"' in line or "restart_failed" in line for line in tracker.lines()), 180
        )
        site.notes.append(f"restarted after {monotonic() - site.broke:.0f} s")
        site.healed = monotonic()
        await storming
        storm.close()
        site.notes.append(f"{storm.done} new connections, {storm.refused} refused")

    return fail


async def _gateway(site: Site) -> Fail:
    port = free_port()
    other = Tracker(
        site.directory,
        "other",
        {"extensions.federation.enabled": True, "server.public_url": f"ws://127.0.0.1:{port}"},
        port=port,
    )
    site.add(other)
    await site.until(other.is_ready)
    settings = {
        "extensions.federation.enabled": True,
        "extensions.federation.peers": [f"ws://127.0.0.1:{other.port}"],
        "extensions.federation.allow_private_addresses": True,
        "server.public_url": f"ws://127.0.0.1:{free_port()}",
    }
    await _three(site, settings=settings)
    linked: list[Tracker] = []

    async def is_linked() -> bool:
        found = [tracker for tracker in site.trackers if (await tracker.metrics())["peerservers_federation_links"]]
        linked.extend(found)
        return bool(linked)

    await site.until(is_linked)
    first = linked[0]
    site.trackers.append(other)
    site.sick.add(first.name)

    async def fail(site: Site) -> None:
        first.is_up = False
        first.tell(signal.SIGKILL)
        linked.clear()
        site.trackers.remove(other)
        await site.until(is_linked)
        site.trackers.append(other)
        site.notes.append(f"{linked[0].name} has the link after {monotonic() - site.broke:.1f} s")

    return fail


SCENARIOS: Final[dict[str, Start]] = {
    "nothing": _nats(_nothing),
    "kill-node": _node(_kill_node),
    "freeze-node-2": _node(_freeze_node(2)),
    "freeze-node-10": _node(_freeze_node(10)),
    "stop-node": _node(_stop_node),
    "kill-nats-2": _nats(_kill_nats(2)),
    "kill-nats-30": _nats(_kill_nats(30)),
    "kill-nats-often": _nats(_kill_nats_often),
    "freeze-nats-2": _nats(_freeze_nats(2)),
    "freeze-nats-30": _nats(_freeze_nats(30)),
    "restart-nats": _nats(_restart_nats),
    "kill-one-of-three-nats": _nats(_kill_one_nats, 3),
    "flood": _node(_flood),
    "slow-link": _link(0.05, 0.05, 0, 20),
    "full-link": _link(0.05, 0.0, 20_000, 20),
    "garbage": _foreign("garbage"),
    "replay": _foreign("replay"),
    "replay-of-the-dead": _foreign("replay of the dead"),
    "shuffle": _foreign("shuffle"),
    "other-key": _other(key=True),
    "other-version": _other(version=True),
    "other-name": _other(name="another"),
    "kill-worker": _kill_worker,
    "freeze-worker": _freeze_worker,
    "kill-supervisor": _kill_supervisor,
    "rolling-restart": _rolling_restart,
    "kill-gateway": _gateway,
}
