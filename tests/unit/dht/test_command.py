"""The arguments of `peerservers lookup`."""

import base64
import contextlib

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from extensions.dht.command import lookup, parse_infohash
from tracker.extension import swarm_key

INFO_HASH = bytes(range(235, 255))
HEX = INFO_HASH.hex()
BASE32 = base64.b32encode(INFO_HASH).decode()


@pytest.mark.parametrize(
    "text",
    [
        HEX,
        HEX.upper(),
        f" {HEX}\n",
        BASE32,
        BASE32.lower(),
        f"magnet:?xt=urn:btih:{HEX}",
        f"MAGNET:?dn=a+b&xt=urn:btih:{BASE32}&tr=wss%3A%2F%2Ftracker.example",
        f"magnet:?xt=urn:btmh:1220{'00' * 32}&xt=urn:btih:{HEX}",
        f"magnet:?xt=urn%3Abtih%3A{HEX}",
    ],
)
def test_all_forms_of_an_infohash(text: str) -> None:
    assert parse_infohash(text) == INFO_HASH


def test_the_key_of_a_text_swarm() -> None:
    assert parse_infohash(' "a room"\n') == swarm_key("a room")
    assert parse_infohash('"aaaaaaaaaaaaaaaaaaaa"') == b"a" * 20


@pytest.mark.parametrize(
    "text", ["", "room", '"', '""', "ab" * 19, "zz" * 20, "magnet:?dn=nothing", "magnet:?xt=urn:btih:12", "ä" * 40]
)
def test_the_command_rejects_text_that_is_not_an_infohash(text: str) -> None:
    ended = CliRunner().invoke(lookup, ["--", text])
    assert ended.exit_code == 2
    assert "not an infohash" in ended.output


@pytest.mark.parametrize("text", ["magnet://[", "magnet:?xt=urn:btih:[", "magnet:", "magnet:?", "magnet:#?xt"])
def test_a_magnet_link_without_an_infohash_is_rejected(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_infohash(text)


@pytest.mark.parametrize("seconds", ["nan", "inf", "-inf", "0", "-1", "1e9", "soon"])
def test_an_invalid_timeout_is_rejected(seconds: str) -> None:
    ended = CliRunner().invoke(lookup, ["--timeout", seconds, HEX])
    assert ended.exit_code == 2
    assert "--timeout" in ended.output


@given(st.text())
def test_any_text_is_an_infohash_or_rejected(text: str) -> None:
    for argument in (text, f"magnet:?xt=urn:btih:{text}", f"magnet:{text}"):
        with contextlib.suppress(click.BadParameter):
            assert len(parse_infohash(argument)) == 20
