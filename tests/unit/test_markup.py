"""HTML in texts, policy by policy."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain.ids import TenantId, TenantKey
from recsvc.domain.markup import MAX_TAGS, HtmlPolicy, MarkupPolicies, without_markup
from recsvc.domain.tenancy import Tenant
from recsvc.domain.text import TextFault, cleaned_text
from recsvc.gen.v1 import admin_service_pb2
from recsvc.rpc.convert.admin import tenant_change

_PIECES = st.sampled_from(
    (
        *("<script>", "</script>", "<!--", "-->", "<b>", "</b>", "script", "img src=x onerror=alert(1)"),
        *("&lt;", "&amp;", "&#60;", "&#x202e;", "e\u0301"),
        *"<>/!?&b'\" é\n\u200b\u0338",
    )
)
_TEXTS = st.lists(_PIECES, max_size=25).map("".join)
_BEGINS_A_TAG = re.compile("<[a-zA-Z/!?]")


def _with(text: str, policy: HtmlPolicy) -> str | None:
    try:
        return without_markup(text, policy)
    except TextFault:
        return None


@given(_TEXTS, st.sampled_from([HtmlPolicy.STRIP, HtmlPolicy.ESCAPE, HtmlPolicy.REFUSE]))
def test_no_markup_is_left_by_any_policy_but_keep(text: str, policy: HtmlPolicy):
    assert not _BEGINS_A_TAG.search(_with(text, policy) or "")


@given(_TEXTS, st.sampled_from(HtmlPolicy))
def test_a_policy_applied_twice_does_no_more_than_once(text: str, policy: HtmlPolicy):
    once = _with(text, policy)
    assert once is None or without_markup(once, policy) == once


@given(_TEXTS, st.sampled_from(HtmlPolicy))
def test_no_entity_brings_back_a_character_that_texts_may_not_hold(text: str, policy: HtmlPolicy):
    once = _with(text, policy)
    assert once is None or cleaned_text(once) == once


@given(_TEXTS)
def test_an_escaped_text_reads_as_the_text_that_was_sent(text: str):
    escaped = _with(text, HtmlPolicy.ESCAPE)
    assert escaped is None or html.unescape(escaped) == cleaned_text(html.unescape(cleaned_text(text)))


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("A <b>bold</b> film", "A bold film"),
        ("<script>steal()</script>Solaris<style>p{}</style>", "Solaris"),
        ('<img src=x onerror="steal()">Solaris', "Solaris"),
        ("<p>One &amp; two</p><p>three<br>four</p>", "One & two\nthree\nfour"),
        ("&lt;script&gt;steal()&lt;/script&gt;<i>Solaris</i>", "Solaris"),
        ("<\u200bscript>steal()</script>Solaris", "Solaris"),
        ("<b>Sol&#x202e;a&#x200b;ris</b>", "Solaris"),
        ("1 < 2 & 3 > 2, I <3 it", "1 < 2 & 3 > 2, I <3 it"),
        ("Tom &amp; Jerry", "Tom &amp; Jerry"),
    ],
)
def test_strip_leaves_the_text_that_a_browser_would_show(text: str, stripped: str):
    assert without_markup(text, HtmlPolicy.STRIP) == stripped


def test_escape_turns_special_characters_into_entities_once():
    assert without_markup("<b>Tom & Jerry's</b>", HtmlPolicy.ESCAPE) == "&lt;b&gt;Tom &amp; Jerry&#x27;s&lt;/b&gt;"
    assert without_markup("Tom &amp; Jerry", HtmlPolicy.ESCAPE) == "Tom &amp; Jerry"


def test_refuse_takes_no_markup_but_any_other_text():
    with pytest.raises(TextFault, match="HTML"):
        without_markup("<b>bold</b>", HtmlPolicy.REFUSE)
    assert without_markup("1 < 2 & R&B", HtmlPolicy.REFUSE) == "1 < 2 & R&B"


def test_keep_cleans_characters_only():
    assert without_markup("<b>caf\u202ee\u0301</b>", HtmlPolicy.KEEP) == "<b>café</b>"


def test_more_tags_than_can_be_parsed_in_time_are_refused():
    assert without_markup("<b>" * MAX_TAGS, HtmlPolicy.STRIP) == ""
    with pytest.raises(TextFault, match="tags"):
        without_markup("<b>" * (MAX_TAGS + 1), HtmlPolicy.STRIP)


def test_policies_are_read_from_settings_and_have_defaults():
    assert MarkupPolicies.of(None) == MarkupPolicies(texts=HtmlPolicy.STRIP, values=HtmlPolicy.REFUSE)
    stored = {"html": "HTML_POLICY_ESCAPE", "value_html": "HTML_POLICY_KEEP"}
    assert MarkupPolicies.of(stored) == MarkupPolicies(HtmlPolicy.ESCAPE, HtmlPolicy.KEEP)
    assert MarkupPolicies.of({"html": "HTML_POLICY_UNSPECIFIED"}) == MarkupPolicies()


def test_the_request_in_the_guide_sets_both_policies():
    guide = (Path(__file__).parents[2] / "docs/guides/text.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", guide, re.DOTALL)
    request = json_format.Parse(example, admin_service_pb2.UpdateTenantRequest())
    changed = tenant_change(request, Tenant(TenantId("shop"), TenantKey(1)))
    stored = json.loads(changed.settings.document)["text"]
    assert MarkupPolicies.of(stored) == MarkupPolicies(HtmlPolicy.ESCAPE, HtmlPolicy.STRIP)
