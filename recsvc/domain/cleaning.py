"""Which rule of `domain.text` and `domain.markup` each field of an item, user or event follows.

The repositories put everything through here before they write it, so that no way in leads around it: single writes,
batches, streams and imports from files. The bounds that a caller meets at the door (the protos state them) are held
here once more, since cleaning can make a text longer and files pass no door.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from recsvc.domain.catalog import AttributeRule, Item
from recsvc.domain.errors import InvalidField
from recsvc.domain.events import Event
from recsvc.domain.markup import HtmlPolicy, MarkupPolicies, without_markup
from recsvc.domain.text import TextFault, cleaned_label, cleaned_line, cleaned_text, name_fault, spelling_fault
from recsvc.domain.users import User

MAX_TITLE = 1000
MAX_DESCRIPTION = 20_000
MAX_LABEL = 128
MAX_CATEGORIES = 100
MAX_TAGS = 200
MAX_USER_LABELS = 200
MAX_DISPLAY_NAME = 256
MAX_STRUCT_KEYS = 64
MAX_STRUCT_DEPTH = 3
MAX_STRUCT_BYTES = 16_384

_EVENT_NAMES = ("event_id", "event_type", "item_id", "user_id", "session_id", "recommendation_id")

Clean = Callable[[str], str]


def clean_item(item: Item, markup: MarkupPolicies, path: str) -> Item:
    """The item as it is to be stored; the same object when there is nothing to do.

    path: where it stands in the request (`items[3]`), for the error. Raises InvalidField.
    """
    changes: dict[str, object] = {}
    if markup.texts is HtmlPolicy.ESCAPE or not _is_plain(item):
        changes = _text_changes(item, markup, path)
    if item.attributes:
        clean = partial(without_markup, policy=markup.values)
        attributes = _StructCleaner(clean, f"{path}.attributes", markup.values is not HtmlPolicy.ESCAPE).whole(
            item.attributes
        )
        if attributes is not item.attributes:
            changes["attributes"] = attributes
    return replace(item, **changes) if changes else item  # type: ignore[arg-type]


def _is_plain(item: Item) -> bool:
    """Whether all is printable ASCII without a tag, as most is: then there is nothing to do, whatever the policy."""
    labels = (item.item_id, item.item_type or "-", *item.categories, *item.tags)
    text = "".join((*labels, item.title, item.description))
    return (
        text.isascii()
        and text.isprintable()
        and "<" not in text
        and all(labels)
        and max(map(len, labels)) <= MAX_LABEL
        and len(item.title) <= MAX_TITLE
        and len(item.description) <= MAX_DESCRIPTION
        and len(item.categories) <= MAX_CATEGORIES
        and len(item.tags) <= MAX_TAGS
    )


def _text_changes(item: Item, markup: MarkupPolicies, path: str) -> dict[str, object]:
    """The fields other than attributes that are to be stored otherwise than they were sent."""
    check_name(item.item_id, f"{path}.item_id")
    label = partial(without_markup, policy=markup.values, clean=cleaned_label)
    changes: dict[str, object] = {}
    for field, clean, longest in (
        ("item_type", label, MAX_LABEL),
        ("title", partial(without_markup, policy=markup.texts, clean=cleaned_line), MAX_TITLE),
        ("description", partial(without_markup, policy=markup.texts), MAX_DESCRIPTION),
    ):
        text = getattr(item, field)
        if text and (fresh := _cleaned(text, clean, f"{path}.{field}", longest)) != text:
            changes[field] = fresh
    for field, most in (("categories", MAX_CATEGORIES), ("tags", MAX_TAGS)):
        labels = getattr(item, field)
        if labels and (fresh_labels := _clean_labels(labels, label, f"{path}.{field}", most)) is not labels:
            changes[field] = fresh_labels
    return changes


def clean_user(user: User, path: str) -> User:
    """The user as it is to be stored; the same object when there is nothing to do. Raises InvalidField."""
    check_name(user.user_id, f"{path}.user_id")
    labels = _clean_labels(user.labels, cleaned_label, f"{path}.labels", MAX_USER_LABELS)
    attributes = _StructCleaner(cleaned_text, f"{path}.attributes").whole(user.attributes)
    if labels is user.labels and attributes is user.attributes:
        return user
    return replace(user, labels=labels, attributes=attributes)


def clean_event(event: Event) -> Event:
    """The event as it is to be stored; the same object when there is nothing to do. Raises InvalidField."""
    names = {field: name for field in _EVENT_NAMES if (name := getattr(event, field)) is not None}
    if not _are_plain_names(names.values()):
        for field, name in names.items():
            check_name(name, field)
    if not event.context and not event.properties:
        return event
    context = _StructCleaner(cleaned_text, "context").whole(event.context)
    properties = _StructCleaner(cleaned_text, "properties").whole(event.properties)
    if context is event.context and properties is event.properties:
        return event
    return event._replace(context=context, properties=properties)


def are_plain(events: Sequence[Event]) -> bool:
    """Whether `clean_event` is sure to return each of these as it is: they come by the thousand, and most are so."""
    for field, column in zip(Event._fields, zip(*events, strict=True), strict=False):
        if field in _EVENT_NAMES:
            names = [name for name in column if name is not None] if None in column else column
            if not _are_plain_names(names):
                return False
        elif field in ("context", "properties") and any(column):
            return False
    return True


def _are_plain_names(names: Collection[str]) -> bool:
    """Whether all are printable ASCII, of a length that names may have."""
    together = "".join(names)
    return together.isascii() and together.isprintable() and all(names) and max(map(len, names), default=0) <= MAX_LABEL


def clean_display_name(text: str, path: str) -> str:
    """The name of a tenant or key as it is to be stored. Raises InvalidField."""
    return _cleaned(text, cleaned_label, path, MAX_DISPLAY_NAME)


def clean_rule(rule: AttributeRule, path: str) -> AttributeRule:
    """A line of an attribute schema as it is to be stored. Raises InvalidField."""
    check_name(rule.key, f"{path}.key")
    return replace(rule, description=_cleaned(rule.description, cleaned_text, f"{path}.description", MAX_TITLE))


def check_name(name: str, path: str) -> None:
    """Raise InvalidField for what can be no id or other name."""
    if fault := name_fault(name):
        raise InvalidField(path, fault)


def check_settings(document: str, path: str) -> None:
    """Raise InvalidField for a tenant's settings (proto3 JSON) with a placement that nobody could ask for by name."""
    for name in json.loads(document).get("placements", ()):
        check_name(name, f"{path}.placements[{_shown(name)}]")


def _cleaned(text: str, clean: Clean, path: str, longest: int) -> str:
    try:
        fresh = clean(text)
    except TextFault as fault:
        raise InvalidField(path, str(fault)) from None
    if len(fresh) > longest:
        raise InvalidField(path, f"is longer than {longest} characters as it would be stored")
    return fresh


def _clean_labels(labels: tuple[str, ...], clean: Clean, path: str, most: int) -> tuple[str, ...]:
    if len(labels) > most:
        raise InvalidField(path, f"must have at most {most} elements")
    fresh = tuple([_cleaned(label, clean, f"{path}[{index}]", MAX_LABEL) for index, label in enumerate(labels)])
    if "" in fresh:
        raise InvalidField(f"{path}[{fresh.index('')}]", "holds nothing that can be seen")
    return labels if fresh == labels else fresh


@dataclass(slots=True)
class _StructCleaner:
    """Cleans the strings of one Struct at any depth, and counts what it holds.

    plain_passes: whether `clean` leaves printable ASCII without a tag alone. size_bytes counts strings only: whatever
    passes the door, which weighs the message as a whole, passes here.
    """

    clean: Clean
    path: str
    plain_passes: bool = True
    keys: int = 0
    size_bytes: int = 0

    def whole(self, struct: Mapping[str, object]) -> Mapping[str, object]:
        """The struct as it is to be stored; the same object when there is nothing to do. Raises InvalidField."""
        return self._struct(struct, self.path, 1)

    def _struct(self, struct: Mapping[str, object], path: str, depth: int) -> Mapping[str, object]:
        if depth > MAX_STRUCT_DEPTH:
            raise InvalidField(path, f"must nest at most {MAX_STRUCT_DEPTH} levels")
        self.keys += len(struct)
        if self.keys > MAX_STRUCT_KEYS:
            raise InvalidField(self.path, f"must have at most {MAX_STRUCT_KEYS} keys")
        changed: dict[str, object] | None = None
        for key, value in struct.items():
            if fault := spelling_fault(key) if key else "is empty":
                raise InvalidField(f"{path}.{_shown(key)}", f"the key {fault}")
            self._weigh(key)
            if value is None or isinstance(value, int | float):
                continue
            fresh = self._value(value, f"{path}.{key}", depth)
            if fresh is not value:
                changed = dict(struct) if changed is None else changed
                changed[key] = fresh
        return struct if changed is None else changed

    def _value(self, value: object, path: str, depth: int) -> object:
        if isinstance(value, str):
            if self.plain_passes and value.isascii() and value.isprintable() and "<" not in value:
                self._weigh(value)
                return value
            # Nothing that counts characters bounds a value, but the weight of all.
            fresh = _cleaned(value, self.clean, path, MAX_STRUCT_BYTES)
            self._weigh(fresh)
            return value if fresh == value else fresh
        if isinstance(value, dict):
            return self._struct(value, path, depth + 1)
        if isinstance(value, list):
            return self._list(value, path, depth)
        return value

    def _list(self, values: list[object], path: str, depth: int) -> list[object]:
        if depth > MAX_STRUCT_DEPTH:
            raise InvalidField(path, f"must nest at most {MAX_STRUCT_DEPTH} levels")
        # A list of lists is a level as an object is one.
        fresh = [
            self._value(value, f"{path}[{index}]", depth + 1 if isinstance(value, list) else depth)
            for index, value in enumerate(values)
        ]
        return fresh if any(new is not old for new, old in zip(fresh, values, strict=True)) else values

    def _weigh(self, text: str) -> None:
        self.size_bytes += len(text) if text.isascii() else len(text.encode())
        if self.size_bytes > MAX_STRUCT_BYTES:
            raise InvalidField(self.path, f"must encode to at most {MAX_STRUCT_BYTES} bytes")


def _shown(name: str) -> str:
    """A refused name in an error: what cannot be seen is spelt out."""
    return ascii(name)[1:-1][:MAX_LABEL]
