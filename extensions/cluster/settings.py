"""The section `[extensions.cluster]`."""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from extensions.cluster.nats_options import NatsSettings

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_LABEL: Final = 64


class ClusterSettings(NatsSettings):
    """Many processes, on one machine or many, are one tracker: each of them is a node of a cluster."""

    enabled: bool = Field(
        False,
        description="Whether this tracker is a node. By default it is one if `servers` or server.workers are given.",
    )
    name: str = Field(
        "tracker",
        description="Name of the cluster: the same for all its nodes, another one for other trackers on these servers.",
    )
    key: Literal["nats", "file"] = Field(
        "nats",
        description='Origin of the identity key with `servers`: "nats", a key-value bucket (JetStream) into which the '
        'first node puts its own; "file", identity.pem in the state directory, the same at all nodes.',
    )
    label: str = Field(
        "", description="Name of this node for people; by default that of the machine, and the number of the worker."
    )

    @model_validator(mode="before")
    @classmethod
    def _on_with_servers(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "enabled" not in value and value.get("servers"):
            return {**value, "enabled": True}
        return value

    @field_validator("name")
    @classmethod
    def _valid_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("a name has 1 to 64 letters, digits, - and _")
        return value

    @field_validator("label")
    @classmethod
    def _valid_label(cls, value: str) -> str:
        if len(value) > _MAX_LABEL or not value.isprintable():
            raise ValueError(f"a label has at most {_MAX_LABEL} printable characters")
        return value
