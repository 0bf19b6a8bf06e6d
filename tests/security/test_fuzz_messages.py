"""Any bytes as the request of any method: they decode or not, and what decodes is valid or refused field by field."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct

from recsvc.domain.errors import InvalidFields
from recsvc.rpc.convert.values import plain, struct
from recsvc.rpc.validation import RequestValidator
from tests.security.fuzzing import ROUNDS, Fuzzer
from tests.security.scenarios import METHODS, requests_of
from tests.security.tenants import Names

pytestmark = pytest.mark.timeout(1200)
_NAMES = Names.of_nobody()


def test_a_mutated_request_is_no_message_or_is_judged(fuzzer: Fuzzer, inputs: Counter[str]) -> None:
    validator = RequestValidator()
    each = 250 * ROUNDS
    decoded = 0
    for path, method in METHODS.items():
        message_class = GetMessageClass(method.input_type)
        seeds = [request.SerializeToString() for request in requests_of(path, _NAMES)]
        seeds += [fuzzer.message(method.input_type).SerializeToString() for _ in range(5)]
        for _ in range(each):
            try:
                message = message_class.FromString(fuzzer.mutated(fuzzer.dice.choice(seeds)))
            except DecodeError:
                continue
            decoded += 1
            _judge(validator, message)
    inputs["messages"] += each * len(METHODS)
    assert decoded > each * len(METHODS) // 10


def test_a_message_of_random_values_is_judged(fuzzer: Fuzzer, inputs: Counter[str]) -> None:
    validator = RequestValidator()
    each = 25 * ROUNDS
    for path, method in METHODS.items():
        seeds = requests_of(path, _NAMES)
        for _ in range(each):
            _judge(validator, fuzzer.message(method.input_type))
            _judge(validator, fuzzer.disturbed(fuzzer.dice.choice(seeds)))
    inputs["messages"] += 2 * each * len(METHODS)


def _judge(validator: RequestValidator, message: Any) -> None:
    # What is wrong with it does not matter here, but that nothing else is raised.
    with suppress(InvalidFields):
        validator.check(message)


def test_a_struct_of_whatever_shape_becomes_plain_and_a_struct_again(fuzzer: Fuzzer, inputs: Counter[str]) -> None:
    count = 3_000 * ROUNDS
    for _ in range(count):
        made = fuzzer.message(Struct.DESCRIPTOR)
        once = struct(plain(made))  # type: ignore[arg-type]
        again = struct(plain(once))
        assert again.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)
    inputs["structs"] += count
