"""The report of `peerservers check`: as text that grows with each step, and as JSON."""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """The outcome of a step.

    A tracker *differs* if it does something in another way by design, and no client that keeps to the protocol suffers.
    """

    WORKS = "works"
    DIFFERS = "differs"
    FAULT = "fault"
    UNTRIED = "untried"


_WORDS: Final = {Outcome.WORKS: "yes", Outcome.DIFFERS: "differs", Outcome.FAULT: "NO", Outcome.UNTRIED: "-"}
_WIDTH: Final = max(map(len, _WORDS.values()))


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one step. `needed` is set if peers cannot meet without it."""

    name: str
    needed: bool
    outcome: Outcome
    detail: str


@dataclass(slots=True)
class Report:
    """The results of the steps so far. `width` is that of the longest name, in characters."""

    url: str
    width: int
    results: list[Result] = field(default_factory=list)

    @property
    def peers_can_meet(self) -> bool:
        """Whether no step has failed that two peers need to connect."""
        return all(result.outcome in (Outcome.WORKS, Outcome.DIFFERS) for result in self.results if result.needed)

    def as_json(self) -> str:
        """Return the report as a JSON object."""
        rows = [{"name": r.name, "needed": r.needed, "outcome": r.outcome, "detail": r.detail} for r in self.results]
        return json.dumps({"url": self.url, "peers_can_meet": self.peers_can_meet, "results": rows}, indent=2)

    def head(self) -> str:
        """Return the lines above the steps."""
        return f"{self.url}\n\n"

    def name(self, name: str) -> str:
        """Return the beginning of a step's line."""
        return f"{name:{self.width}}  "

    def outcome(self, result: Result) -> str:
        """Return the rest of a step's line."""
        mark = "*" if result.needed else " "
        return f"{_WORDS[result.outcome]:{_WIDTH}}  {mark}  {result.detail}".rstrip() + "\n"

    def verdict(self) -> str:
        """Return the lines below the steps."""
        lines = ["", f"Peers {'can' if self.peers_can_meet else 'cannot'} meet here. (* is needed for that)"]
        if any(result.outcome is Outcome.DIFFERS for result in self.results):
            lines.append("differs: a choice of this tracker, not a fault")
        return "\n".join(lines) + "\n"
