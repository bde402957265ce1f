"""A tracker in `peers`: since when it is not linked, why, and when it is dialed again (sans I/O)."""

import time
from typing import Any, Final

from extensions.federation.reasons import EndReason

MAX_TEXT: Final = 200
"""Characters of the reason that are shown. The other side may have written them."""


class Listed:
    """A listed tracker, and its state while it is not linked. All times are in Unix seconds."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.tracker_id = ""
        """The id that it has proved, empty until it is reached."""
        self.reason: EndReason | None = None
        """Why the last attempt failed; None if none has failed since the start, or since a link that has lasted."""
        self.next_try = 0.0
        """When it is dialed again, at the latest; 0 while it is dialed."""
        self._since = time.time()
        self._text = ""

    @property
    def is_itself(self) -> bool:
        """Whether the URL leads to this tracker, as in a list that all trackers of an operator share."""
        return self.reason is EndReason.ITSELF

    @property
    def why(self) -> str:
        """The reason and its text for people, empty if there is none."""
        reason = self.reason.value if self.reason else ""
        return f"{reason}: {self._text}" if self._text not in ("", reason) else reason

    def on_failure(self, reason: EndReason, text: str) -> bool:
        """Note that an attempt has failed. Return whether that is news: the tracker was not down before."""
        is_news = self.reason is None or self.is_itself
        if is_news:
            self._since = time.time()
        self.reason = reason
        self._text = "".join(letter if letter.isprintable() else "?" for letter in text[:MAX_TEXT])
        return is_news and not self.is_itself

    def on_success(self) -> None:
        """Note that a link has lasted, or has ended only because there is another one."""
        self.reason, self._text, self._since = None, "", time.time()

    def as_row(self) -> dict[str, Any]:
        """Return the state for the page and the statistics."""
        return {
            "tracker": self.tracker_id,
            "url": self.url,
            "state": "down" if self.reason else "connecting",
            "since": int(self._since),
            "reason": self.why,
            "next_try": int(self.next_try),
        }
