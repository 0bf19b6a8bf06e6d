"""What becomes of HTML in the texts of a catalogue, as the tenant wants it.

What counts as markup is what begins a tag, comment or declaration for a browser (HTML 5.2, 8.2.4.6): `<` before a
letter, `/`, `!` or `?`. After every policy but KEEP none of that is left, so that a page which shows the text makes no
element of it. A text is still text: whoever puts it into an attribute or a script must escape it for that place.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import nh3

from recsvc.domain.text import TextFault, cleaned_text

# Parsing takes quadratic time in what is left open; this many take about a millisecond.
MAX_TAGS = 400
_MOST_LAYERS = 8
_TAG = re.compile(r"<(?=[a-zA-Z/!?])")
_BLOCK = re.compile(
    r"(?=</?(?:address|article|blockquote|br|dd|div|dl|dt|figure|footer|h[1-6]|header|hr|li|ol|p|pre|section|table|td|th"
    r"|tr|ul)\b)",
    re.IGNORECASE,
)
_BREAKS = re.compile(r"\s*\n\s*")
_NO_TAGS: set[str] = set()
_WITH_CONTENT = {"script", "style"}


class HtmlPolicy(StrEnum):
    """What a tenant wants done with HTML."""

    STRIP = "STRIP"
    ESCAPE = "ESCAPE"
    REFUSE = "REFUSE"
    KEEP = "KEEP"


@dataclass(frozen=True, slots=True)
class MarkupPolicies:
    """texts: for title and description. values: for what filters compare (categories, tags, attributes, …)."""

    texts: HtmlPolicy = HtmlPolicy.STRIP
    values: HtmlPolicy = HtmlPolicy.REFUSE

    @classmethod
    def of(cls, settings: Mapping[str, str] | None) -> Self:
        """The policies in a tenant's settings (`text`, in proto3 JSON); those that are not there have their default."""
        default = cls()
        stored = settings or {}
        return cls(
            _policy(stored.get("html", ""), default.texts),
            _policy(stored.get("value_html", ""), default.values),
        )


def without_markup(text: str, policy: HtmlPolicy, clean: Callable[[str], str] = cleaned_text) -> str:
    """The cleaned text as the policy wants it. Raises TextFault.

    clean: the rule for characters. Doing it twice does no more than doing it once.
    """
    text = clean(text)
    if policy is HtmlPolicy.ESCAPE:
        # What is escaped already stays so: what was read can be written back.
        return html.escape(clean(html.unescape(text)))
    if policy is HtmlPolicy.KEEP or "<" not in text or not _TAG.search(text):
        return text
    if policy is HtmlPolicy.REFUSE:
        raise TextFault("holds HTML, which the tenant's settings refuse")
    return _stripped(text, clean)


def _stripped(text: str, clean: Callable[[str], str]) -> str:
    """The text that a browser would show. Entities are decoded, and what they hid is stripped in turn."""
    for _ in range(_MOST_LAYERS):
        tags = len(_TAG.findall(text))
        if not tags:
            return text
        if tags > MAX_TAGS:
            raise TextFault(f"holds more than {MAX_TAGS} HTML tags")
        bare = nh3.clean(_BLOCK.sub("\n", text), tags=_NO_TAGS, clean_content_tags=_WITH_CONTENT)
        text = clean(_BREAKS.sub("\n", html.unescape(bare)).strip())
    return clean(text.replace("<", ""))


def _policy(name: str, default: HtmlPolicy) -> HtmlPolicy:
    try:
        return HtmlPolicy(name.removeprefix("HTML_POLICY_"))
    except ValueError:
        return default
