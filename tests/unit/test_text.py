"""What characters names and texts may hold."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain.text import (
    MAX_COMBINING_MARKS,
    TextFault,
    cleaned_label,
    cleaned_line,
    cleaned_text,
    name_fault,
)

_FORMATS = "\u00ad\u200b\u200c\u200d\u200e\u202a\u202e\u2060\u2066\u2069\ufeff\U000e0041"
# Far more of what matters than chance would find: controls, formats, marks that compose, emoji, noncharacters.
_ODD = st.sampled_from([*_FORMATS, *"\0\x01\t\n\r\v\x7f\x85\u2028\ufdd0\uffff\u0301\u0323\u212a\u0344<>&e\u0338é👩💻क"])
_TEXTS = st.lists(st.one_of(_ODD, st.characters(codec=None))).map("".join)


def _cleaned(text: str) -> str | None:
    try:
        return cleaned_text(text)
    except TextFault:
        return None


def _is_noncharacter(code: int) -> bool:
    return 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE


@given(_TEXTS)
def test_cleaning_twice_does_no_more_than_cleaning_once(text: str):
    once = _cleaned(text)
    assert once is None or cleaned_text(once) == once


@given(_TEXTS)
def test_a_cleaned_text_is_in_normal_form(text: str):
    once = _cleaned(text)
    assert once is None or unicodedata.is_normalized("NFC", once)


@given(_TEXTS)
def test_nothing_forbidden_survives_cleaning(text: str):
    for character in _cleaned(text) or "":
        assert character in "\t\n" or unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
        assert character not in "\u00ad\u200b\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
        assert not _is_noncharacter(ord(character))


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_printable_ascii_passes_unchanged(text: str):
    assert cleaned_text(text) == cleaned_line(text) == cleaned_label(text) == text
    assert not text or len(text) > 128 or name_fault(text) is None


@given(_TEXTS)
def test_a_line_and_a_label_have_no_control_characters(text: str):
    for clean in (cleaned_line, cleaned_label):
        try:
            once = clean(text)
        except TextFault:
            continue
        assert not any(unicodedata.category(character) == "Cc" for character in once)
        assert clean(once) == once


@given(_TEXTS.filter(lambda text: name_fault(text) is None))
def test_what_can_be_a_name_is_never_changed_by_cleaning(text: str):
    assert cleaned_text(text) == text


def test_no_name_holds_what_unicode_calls_control_format_or_separator_of_lines():
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") or _is_noncharacter(code):
            assert name_fault(f"a{character}b") is not None, f"U+{code:04X}"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "is empty"),
        ("x" * 129, "is longer than 128 characters"),
        ("a\nb", "holds control characters"),
        ("a\u202eb", "holds the character U+202E, which cannot be seen"),
        ("a\u200db", "holds the character U+200D, which cannot be seen"),
        ("cafe\u0301", "is not in Unicode normal form C (NFC)"),
        ("\ud800", "holds the character U+D800, which cannot be seen"),
    ],
)
def test_what_is_wrong_with_a_name_is_told(name: str, fault: str):
    assert name_fault(name) == fault


def test_names_in_any_script_are_fine():
    assert [name_fault(name) for name in ("café", "Ünïcödé", "日本語", "हिन्दी", "🛒", "a b")] == [None] * 6


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("cafe\u0301", "café"),
        ("one\r\ntwo\rthree\x85four\u2028five\tsix", "one\ntwo\nthree\nfour\nfive\tsix"),
        ("bell\x07 escape\x1b[31m delete\x7f", "bell escape[31m delete"),
        ("invoice\u202egnp.exe", "invoicegnp.exe"),
        ("\ufeffzero\u200bwidth\u2060joined\u00ad", "zerowidthjoined"),
        ("hidden\U000e0041\U000e0042 words\ufdd0\uffff", "hidden words"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("pay\u200dpal", "paypal"),
        ("क\u200d\u200d\u200cष", "क\u200dष"),
        ("שלום\u200f!", "שלום\u200f!"),
        ("❤\ufe0f", "❤\ufe0f"),
    ],
)
def test_a_text_keeps_what_is_seen_and_loses_what_is_not(text: str, cleaned: str):
    assert cleaned_text(text) == cleaned


@pytest.mark.parametrize("text", ["nul\0", "\ud83d", "a" + "\u0301\u0323" * MAX_COMBINING_MARKS])
def test_what_cannot_be_mended_is_refused(text: str):
    with pytest.raises(TextFault):
        cleaned_text(text)


def test_a_line_has_blanks_for_line_breaks():
    assert cleaned_line("one\r\ntwo\tthree") == "one two three"


def test_a_label_with_a_control_character_is_refused():
    with pytest.raises(TextFault):
        cleaned_label("one\ntwo")
