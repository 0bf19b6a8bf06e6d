"""The contract as JSON callers see it: a verb and a path for every method, as google.api.http declares them."""

from __future__ import annotations

import re

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from recsvc.rpc.server import FILES
from tests.http_paths import bindings

METHODS = {
    method.full_name.removeprefix("recsvc.v1."): method
    for file in FILES
    for service in file.services_by_name.values()
    for method in service.methods
}
each_method = pytest.mark.parametrize("name", METHODS)


def field_at(message: Descriptor, path: str) -> FieldDescriptor:
    """The field that a dotted path names; KeyError when there is none."""
    first, _, rest = path.partition(".")
    field = message.fields_by_name[first]
    return field_at(field.message_type, rest) if rest else field


@each_method
def test_method_has_a_path_of_version_1(name: str) -> None:
    assert all(re.match(r"/v1[:/]\w", path) for _, path, _ in bindings(METHODS[name]))


@each_method
def test_variables_of_a_path_are_strings_of_the_request(name: str) -> None:
    for _, path, _ in bindings(METHODS[name]):
        for variable in re.findall(r"\{(.+?)\}", path):
            field = field_at(METHODS[name].input_type, variable)
            assert (field.type, field.is_repeated) == (FieldDescriptor.TYPE_STRING, False)


@each_method
def test_only_verbs_that_may_have_a_body_have_one(name: str) -> None:
    for verb, _, body in bindings(METHODS[name]):
        assert bool(body) == (verb not in ("get", "delete"))
        assert body in ("", "*") or METHODS[name].input_type.fields_by_name[body].message_type


def test_no_two_methods_share_a_verb_and_a_path() -> None:
    seen = [(verb, re.sub(r"\{.+?\}", "{}", path)) for method in METHODS.values() for verb, path, _ in bindings(method)]
    assert len(seen) == len(set(seen))
