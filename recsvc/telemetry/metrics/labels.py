"""Labels whose values others choose: bounded, so that no metric grows with what tenants make up."""

from __future__ import annotations

from typing import Final

OTHER: Final = "other"


class BoundedLabel:
    """Lets the first so many different values through; all further ones are `other`."""

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        """What stands for the value."""
        if value in self._known:
            return value
        if len(self._known) >= self._at_most:
            return OTHER
        self._known.add(value)
        return value
