"""What characters text may hold: one rule for ids and other names, one for what people write.

Names (ids, event types, attribute keys, placements) are compared byte by byte and never changed, so one that could pass
for another is refused. Texts are brought into Unicode's normal form C and lose what nobody sees or what reorders what
is seen. docs/guides/text.md has the table and the reasons. Which field follows which rule is told in `domain.cleaning`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from unicodedata import combining, is_normalized, normalize

from recsvc.domain.ids import MAX_ID_LENGTH

# A longer run takes quadratic time to be put in order; no script needs half of it (UAX #15, Stream-Safe Text).
MAX_COMBINING_MARKS = 30


class TextFault(ValueError):
    """Occurs when a text cannot be taken as it is; says what is wrong, without the text."""


def _ranges(*bounds: tuple[int, int]) -> str:
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in bounds)


_NONCHARACTERS = ((0xFDD0, 0xFDEF), *((plane + 0xFFFE, plane + 0xFFFF) for plane in range(0, 0x110000, 0x10000)))
_CONTROLS = ((0x00, 0x1F), (0x7F, 0x9F))
_SURROGATES = ((0xD800, 0xDFFF),)
_INVISIBLE = (
    (0xAD, 0xAD),  # soft hyphen
    (0x34F, 0x34F),  # combining grapheme joiner
    (0x115F, 0x1160),  # Hangul fillers, and so are 3164 and FFA0
    (0x17B4, 0x17B5),  # Khmer inherent vowels
    (0x180E, 0x180E),  # Mongolian vowel separator
    (0x200B, 0x200B),  # zero width space
    (0x202A, 0x202E),  # bidi embeddings and overrides
    (0x2060, 0x206F),  # word joiner, invisible operators, bidi isolates, deprecated controls
    (0x3164, 0x3164),
    (0xFEFF, 0xFEFF),  # byte order mark
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFC),  # reserved, interlinear annotation, object replacement
    (0x1BCA0, 0x1BCA3),  # shorthand controls
    (0x1D173, 0x1D17A),  # musical controls
    (0xE0000, 0xE00FF),  # tags, which spell hidden messages
)
# What texts may keep and names may not.
_MARKS_IN_TEXTS = (
    (0x600, 0x605), (0x61C, 0x61C), (0x6DD, 0x6DD), (0x70F, 0x70F), (0x890, 0x891), (0x8E2, 0x8E2), (0x180B, 0x180F),
    (0x200C, 0x200F), (0x2028, 0x2029), (0xFE00, 0xFE0F), (0xFFFD, 0xFFFD), (0x110BD, 0x110BD), (0x110CD, 0x110CD),
    (0x13430, 0x1343F), (0xE0100, 0xE0FFF),
)  # fmt: skip
_LINE_BREAKS = "\v\f\r\x85\u2028\u2029"

_CONTROL = re.compile(f"[{_ranges(*_CONTROLS)}]")
_NOT_IN_NAMES = re.compile(f"[{_ranges(*_CONTROLS, *_INVISIBLE, *_MARKS_IN_TEXTS, *_SURROGATES, *_NONCHARACTERS)}]")
_REFUSED_IN_TEXTS = re.compile(f"[\x00{_ranges(*_SURROGATES)}]")
_SUSPECT_IN_TEXTS = re.compile(
    f"[{_ranges((0x00, 0x08), (0x0B, 0x1F), (0x7F, 0x9F), *_SURROGATES, *_INVISIBLE, *_NONCHARACTERS)}"
    "\u200c\u200d\u2028\u2029]"
)
_JOINERS = re.compile("[\u200c\u200d]+")


def _codes(bounds: Iterable[tuple[int, int]]) -> Iterable[int]:
    return (code for first, last in bounds for code in range(first, last + 1))


_REPLACEMENTS: dict[int, str | None] = {
    **dict.fromkeys(_codes((*_CONTROLS, *_INVISIBLE, *_NONCHARACTERS))),
    **dict.fromkeys(map(ord, _LINE_BREAKS), "\n"),
    ord("\n"): "\n",
    ord("\t"): "\t",
}


def name_fault(text: str) -> str | None:
    """What keeps the text from being an id or another name of 1 to 128 characters, or None."""
    if not text:
        return "is empty"
    if len(text) > MAX_ID_LENGTH:
        return f"is longer than {MAX_ID_LENGTH} characters"
    return spelling_fault(text)


def spelling_fault(text: str) -> str | None:
    """The same, whatever the length."""
    # By far the faster test; what it lets through, the expressions would let through.
    if text.isascii() and text.isprintable():
        return None
    if (found := _NOT_IN_NAMES.search(text)) is None:
        return None if is_normalized("NFC", text) else "is not in Unicode normal form C (NFC)"
    if _CONTROL.match(found[0]):
        return "holds control characters"
    return f"holds the character U+{ord(found[0]):04X}, which cannot be seen"


def cleaned_text(text: str) -> str:
    """A text of any number of lines, in NFC and without what the table strips. Raises TextFault.

    Cleaning what was cleaned changes nothing; printable ASCII passes unchanged.
    """
    if text.isascii() and text.isprintable():
        return text
    suspect = _SUSPECT_IN_TEXTS.search(text) is not None
    if not suspect and is_normalized("NFC", text):
        return text
    if found := _REFUSED_IN_TEXTS.search(text):
        raise TextFault("must not contain the character NUL" if found[0] == "\0" else "holds half a surrogate pair")
    text = in_normal_form(text)
    if suspect:
        visible = text.replace("\r\n", "\n").translate(_REPLACEMENTS)
        text = in_normal_form(_JOINERS.sub(_needed_joiner, visible))
    return text


def cleaned_line(text: str) -> str:
    """The same for a text of one line: line breaks and tabs become blanks."""
    return cleaned_text(text).replace("\n", " ").replace("\t", " ")


def cleaned_label(text: str) -> str:
    """The same for what is compared as well as read (categories, tags): control characters are refused."""
    if text.isascii() and text.isprintable():
        return text
    if _CONTROL.search(text):
        raise TextFault("holds control characters")
    return cleaned_line(text)


def in_normal_form(text: str) -> str:
    """The text in NFC. Raises TextFault for more combining marks in a row than can be put in order in time."""
    if is_normalized("NFC", text):
        return text
    run = 0
    for character in text:
        run = run + 1 if combining(character) else 0
        if run > MAX_COMBINING_MARKS:
            raise TextFault(f"holds more than {MAX_COMBINING_MARKS} combining marks in a row")
    return normalize("NFC", text)


def _needed_joiner(joiners: re.Match[str]) -> str:
    """Joiners shape emoji and the letters of many scripts; beside ASCII, and in rows, they only hide."""
    text, start, end = joiners.string, joiners.start(), joiners.end()
    between = start > 0 and end < len(text) and not text[start - 1].isascii() and not text[end].isascii()
    return joiners[0][0] if between else ""
