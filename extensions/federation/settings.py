"""The section `[extensions.federation]`."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from extensions.trackers import is_url
from tracker.extension import ExtensionSettings, Settings


class FederationSettings(ExtensionSettings):
    """Links to other trackers, so that peers of one swarm meet though they have joined different trackers."""

    policy: Literal["open", "allow"] = Field(
        "open", description='Trackers to link with: "open", all that prove their id; "allow", only those in `allow`.'
    )
    allow: list[str] = Field([], description="Ids (`peerservers identity`) of trackers to link with.")
    deny: list[str] = Field([], description="Ids of trackers that are never linked.")
    peers: list[str] = Field(
        [], description='URLs of trusted trackers that are always linked, e.g. ["wss://tracker.example.net"].'
    )
    aliases: list[str] = Field([], description="Other URLs than server.public_url under which trackers reach this one.")
    allow_private_addresses: bool = Field(
        False, description="Dial private addresses and ws:// URLs that are found in the DHT (for tests, or for a LAN)."
    )
    max_links: int = Field(1000, ge=1, description="Most links at the same time.")
    idle_timeout: float = Field(
        300,
        gt=0,
        description="Seconds without a common swarm after which a link ends, if half of max_links are open.",
    )

    def doubts(self, settings: Settings) -> Iterator[str]:  # noqa: ARG002
        """Yield a warning for each valid value that is probably a mistake."""
        if self.enabled and self.policy == "allow" and not (self.allow or self.peers):
            yield 'extensions.federation.allow: is empty, so that this tracker links with none; policy is "allow"'

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
