"""Admission of connections: the address that a client is counted for."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.access.forwarded import numeric
from tracker.access.gate import LOCAL, ConnectionGate, ConnectionInfo, Refused, SocketBudget
from tracker.access.lists import AccessLists
from tracker.reasons import RejectReason
from tracker.settings import Access, Settings

PROXY, STRANGER, CLIENT = "10.0.0.1", "198.51.100.9", "192.0.2.7"
NAME = "X-Real-IP"


class Headers:
    """Field lines of a request."""

    def __init__(self, *lines: tuple[str, str]) -> None:
        self.lines = lines

    def get_all(self, key: str) -> list[str]:
        return [value for name, value in self.lines if name.lower() == key.lower()]


def gate_with(header: str = "", **limits: Any) -> ConnectionGate:
    server = {"trusted_proxies": ["10.0.0.0/8"], "client_address_header": header}
    settings = Settings.model_validate({"server": server, "limits": {"exempt": [], **limits}})
    return ConnectionGate(settings, AccessLists(Access()), SocketBudget(10, 10))


def identified(gate: ConnectionGate, peer: str | None, *lines: tuple[str, str]) -> ConnectionInfo:
    info = gate.arrive(peer, 0.0)
    gate.identify(info, None, Headers(*lines), 0.0)
    return info


@pytest.mark.parametrize("peer", [PROXY, "::ffff:10.0.0.1", None], ids=["4", "6", "unix"])
class TestBehindAProxy:
    @pytest.mark.parametrize("value", [CLIENT, f" {CLIENT}:4711", "::ffff:192.0.2.7", "[::ffff:192.0.2.7]:1"])
    @pytest.mark.parametrize("name", ["CF-Connecting-IP", "True-Client-IP", "Fly-Client-IP"])
    def test_the_named_header_gives_the_address(self, peer: str | None, name: str, value: str) -> None:
        info = identified(gate_with(name), peer, (name.lower(), value))
        assert info.address == CLIENT
        assert info.quota
        assert info.quota.address == CLIENT

    def test_other_headers_are_ignored_then(self, peer: str | None) -> None:
        others = ("X-Forwarded-For", STRANGER), ("Forwarded", f"for={STRANGER}"), ("X-Client-IP", STRANGER)
        assert identified(gate_with(NAME), peer, *others, (NAME, CLIENT)).address == CLIENT
        info = identified(gate_with(NAME), peer, *others)
        assert (info.address, info.quota, info.is_proxy) == (LOCAL if peer is None else PROXY, None, True)

    def test_the_named_header_is_ignored_without_the_setting(self, peer: str | None) -> None:
        assert identified(gate_with(), peer, (NAME, STRANGER), ("X-Forwarded-For", CLIENT)).address == CLIENT
        assert identified(gate_with(), peer, (NAME, STRANGER)).is_proxy

    @pytest.mark.parametrize(
        "values",
        [
            [CLIENT, CLIENT],
            [CLIENT, STRANGER],
            ["", CLIENT],
            [f"{STRANGER}, {CLIENT}"],
            ["unknown"],
            ["unix:"],
            ["192.0.2"],
            ["1" * 5000],
        ],
    )
    def test_anything_but_one_address_is_refused(self, peer: str | None, values: list[str]) -> None:
        gate = gate_with(NAME)
        with pytest.raises(Refused) as caught:
            identified(gate, peer, *((NAME, value) for value in values))
        assert (caught.value.reason, caught.value.status) == (RejectReason.CLIENT_ADDRESS, HTTPStatus.BAD_REQUEST)
        assert caught.value.headers == {}
        assert gate.addresses.connections() == {}

    def test_an_empty_header_is_as_none(self, peer: str | None) -> None:
        """HAProxy sends an empty value for a client without an address."""
        assert identified(gate_with(NAME), peer, (NAME, "")).is_proxy

    def test_a_client_that_a_proxy_header_has_named_stays(self, peer: str | None) -> None:
        gate = gate_with(NAME)
        info = gate.arrive(peer, 0.0)
        gate.identify(info, CLIENT, None, 0.0)
        gate.identify(info, None, Headers((NAME, STRANGER)), 0.0)
        assert info.address == CLIENT

    @given(values=st.lists(st.text(max_size=40) | st.ip_addresses().map(str), max_size=3))
    def test_any_value_gives_an_address_or_a_refusal(self, peer: str | None, values: Sequence[str]) -> None:
        try:
            info = identified(gate_with(NAME), peer, *((NAME, value) for value in values))
        except Refused:
            return
        assert numeric(info.address) == info.address
        assert info.is_proxy or len(values) == 1


@given(st.sampled_from(["", NAME]), st.text(max_size=40) | st.ip_addresses().map(str))
def test_headers_of_an_untrusted_client_are_ignored(header: str, value: str) -> None:
    lines = ("X-Forwarded-For", value), ("Forwarded", f"for={value}"), (NAME, value), (NAME, value)
    info = identified(gate_with(header), STRANGER, *lines)
    assert (info.address, info.is_proxy) == (STRANGER, False)
    assert info.quota


def test_the_name_is_reloaded() -> None:
    gate = gate_with()
    fresh = Settings.model_validate({"server": {"trusted_proxies": [PROXY], "client_address_header": NAME}})
    gate.change(fresh, gate.access, gate.room)
    assert identified(gate, PROXY, (NAME, CLIENT)).address == CLIENT


@pytest.mark.parametrize("peer", [CLIENT, PROXY, None], ids=["client", "proxy", "unix"])
def test_new_connections_and_pages_are_charged_to_the_client(peer: str | None) -> None:
    gate = gate_with(new_connections_per_second=0.01, pages_per_second=0.01, burst=200)
    lines = () if peer == CLIENT else (("X-Forwarded-For", CLIENT),)
    for _ in range(2):
        info = identified(gate, peer, *lines)
        gate.charge_page(info, 0.0)
    with pytest.raises(Refused) as caught:
        gate.charge_page(info, 0.0)
    assert (caught.value.reason, caught.value.status) == (RejectReason.PAGE_RATE, HTTPStatus.TOO_MANY_REQUESTS)
    assert caught.value.headers == {"Retry-After": "5"}
    with pytest.raises(Refused) as caught:
        identified(gate, peer, *lines)
    assert (caught.value.reason, caught.value.status) == (RejectReason.CONNECTION_RATE, HTTPStatus.TOO_MANY_REQUESTS)
    assert caught.value.headers == {"Retry-After": "5"}
    assert gate.addresses.connections() == {CLIENT: 2}
    # A connection that another worker hands over was charged there.
    handed = gate.arrive(peer, 0.0, is_new=False)
    gate.identify(handed, None, Headers(*lines), 0.0)
    assert gate.addresses.connections() == {CLIENT: 3}


def test_exempt_clients_and_proxies_are_not_charged_for_pages() -> None:
    gate = gate_with(pages_per_second=0.01, new_connections_per_second=0.01, exempt=["192.0.2.0/24"])
    for info in (gate.arrive(CLIENT, 0.0), gate.arrive(PROXY, 0.0), gate.arrive(None, 0.0)):
        for _ in range(100):
            gate.charge_page(info, 0.0)
    for _ in range(100):
        assert gate.arrive(CLIENT, 0.0).quota is None
