"""The section `[extensions.federation]`."""

from typing import Literal

from pydantic import Field, field_validator

from extensions.trackers import is_url
from tracker.extension import ExtensionSettings


class FederationSettings(ExtensionSettings):
    """Links to other trackers, over which peers meet that joined different ones."""

    policy: Literal["open", "allow"] = Field(
        "open", description='Whom to link with: "open", any tracker that proves its id; "allow", those in `allow`.'
    )
    allow: list[str] = Field([], description="Tracker ids (`peerservers identity`) to link with.")
    deny: list[str] = Field([], description="Tracker ids never to link with.")
    peers: list[str] = Field(
        [], description='URLs of trackers to link with always, trusted, e.g. ["wss://tracker.example.net"].'
    )
    aliases: list[str] = Field([], description="Other URLs than server.public_url under which trackers reach this one.")
    allow_private_addresses: bool = Field(
        False, description="Let strangers name private addresses, and ws:// (tests, one operator's LAN)."
    )
    max_links: int = Field(100, ge=1, description="Most links at a time.")
    idle_timeout: float = Field(
        300, gt=0, description="Seconds without a common swarm after which a link is closed, if half of all are in use."
    )

    @field_validator("allow", "deny")
    @classmethod
    def _ids(cls, value: list[str]) -> list[str]:
        for text in value:
            if len(text) != 64 or not all(digit in "0123456789abcdef" for digit in text):
                raise ValueError(f"not a tracker id of 64 hexadecimal digits: {text}")
        return value

    @field_validator("peers", "aliases")
    @classmethod
    def _urls(cls, value: list[str]) -> list[str]:
        for text in value:
            if not is_url(text):
                raise ValueError(f"not a ws:// or wss:// URL: {text}")
        return value
