"""Writes MaxMind DB files (https://maxmind.github.io/MaxMind-DB/), without sharing data between networks."""

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

_STRING, _UINT16, _UINT32, _MAP, _UINT64, _ARRAY = 2, 5, 6, 7, 9, 11
_METADATA_UINTS = {"node_count": _UINT32, "build_epoch": _UINT64}
"""Types of numbers in the metadata. All others there are 16 bits long; those in records are 32 bits long."""

_IPV4_AT = 96
"""Bits that precede an IPv4 address in a tree of IPv6 addresses."""

Node = list[Any]
"""The two halves of a network: each is None, a `Node`, or the data of all addresses in it."""


def write_mmdb(path: Path, records: Mapping[str, object], ip_version: int = 6) -> Path:
    """Write a file with the records of disjoint networks, and return its path."""
    root: Node = [None, None]
    for text, record in records.items():
        network = ip_network(text)
        bits = f"{int(network.network_address):0{network.max_prefixlen}b}"[: network.prefixlen]
        if network.version < ip_version:
            bits = "0" * _IPV4_AT + bits
        node = root
        for bit in bits[:-1]:
            if node[int(bit)] is None:
                node[int(bit)] = [None, None]
            node = node[int(bit)]
        node[int(bits[-1])] = _encode(record, _UINT32)
    nodes = [root]
    for node in nodes:
        nodes += [half for half in node if isinstance(half, list)]
    numbers = {id(node): number for number, node in enumerate(nodes)}
    tree, data = b"", b""
    for node in nodes:
        for half in node:
            value = len(nodes)
            if isinstance(half, list):
                value = numbers[id(half)]
            elif half is not None:
                value = len(nodes) + 16 + len(data)
                data += half
            tree += value.to_bytes(3, "big")
    metadata = {
        "binary_format_major_version": 2,
        "binary_format_minor_version": 0,
        "build_epoch": 1_700_000_000,
        "database_type": "Test",
        "description": {"en": "a test"},
        "ip_version": ip_version,
        "languages": ["en"],
        "node_count": len(nodes),
        "record_size": 24,
    }
    path.write_bytes(tree + bytes(16) + data + b"\xab\xcd\xefMaxMind.com" + _encode(metadata, _UINT16))
    return path


def _encode(value: object, uint: int) -> bytes:
    if isinstance(value, str):
        return _head(_STRING, len(value.encode())) + value.encode()
    if isinstance(value, int):
        number = value.to_bytes((value.bit_length() + 7) // 8, "big")
        return _head(uint, len(number)) + number
    if isinstance(value, list):
        return _head(_ARRAY, len(value)) + b"".join(_encode(item, uint) for item in value)
    assert isinstance(value, dict)
    items = (_encode(key, uint) + _encode(item, _METADATA_UINTS.get(key, uint)) for key, item in value.items())
    return _head(_MAP, len(value)) + b"".join(items)


def _head(kind: int, size: int) -> bytes:
    assert size < 285
    short, rest = min(size, 29), bytes([size - 29]) if size >= 29 else b""
    return (bytes([kind << 5 | short]) if kind < 8 else bytes([short, kind - 7])) + rest
