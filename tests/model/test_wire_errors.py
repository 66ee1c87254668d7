"""Errors cross the wire as themselves, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from google.rpc import code_pb2

from ringfence.model import errors
from ringfence.model.errors import NotFoundError, PeerError, PolicyError, RingfenceError, TooOftenError
from ringfence.model.wire_errors import STATUS_OF, defect_status, from_call, to_status

HOUSE = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RingfenceError)
]


class FailedCall(grpc.RpcError, grpc.Call):
    """A call that ended with a status, as gRPC hands it to a client."""

    def __init__(
        self, code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, bytes], ...] = ()
    ) -> None:
        self._code, self._details, self._trailers = code, details, trailers

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[object, ...]:
        from collections import namedtuple

        pair = namedtuple("pair", ["key", "value"])
        return tuple(pair(*item) for item in self._trailers)

    initial_metadata: Callable[..., object] = lambda self: ()
    add_callback = cancel = is_active = time_remaining = initial_metadata


def across_the_wire(error: RingfenceError) -> FailedCall:
    status = to_status(error)
    code = next(found for found in grpc.StatusCode if found.value[0] == status.code)
    return FailedCall(code, status.message, (("grpc-status-details-bin", status.SerializeToString()),))


@pytest.mark.parametrize("kind", HOUSE, ids=lambda kind: kind.__name__)
def test_every_error_of_the_house_is_in_the_table_and_arrives_as_itself(kind: type[RingfenceError]) -> None:
    assert kind in STATUS_OF
    arrived = from_call(across_the_wire(kind("what happened", hint="what to do")))
    assert type(arrived) is kind
    assert (arrived.message, arrived.hint) == ("what happened", "what to do")


class OfOneModuleError(PolicyError):
    """An error that only one module knows, with arguments of its own."""

    code = "of_one_module"

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}", hint="do this")


def test_an_error_that_only_one_module_knows_arrives_as_its_family() -> None:
    arrived = from_call(across_the_wire(OfOneModuleError(1, 2)))
    assert type(arrived) is PolicyError
    assert (arrived.message, arrived.hint) == ("1 and 2", "do this")


def test_stable_codes_are_unique() -> None:
    codes = [kind.code for kind in HOUSE]
    assert len(set(codes)) == len(codes)


def test_a_defect_arrives_without_any_detail() -> None:
    status = defect_status()
    assert status.code == code_pb2.INTERNAL
    call = FailedCall(
        grpc.StatusCode.INTERNAL, status.message, (("grpc-status-details-bin", status.SerializeToString()),)
    )
    assert type(from_call(call)) is PeerError


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_a_status_without_details_becomes_an_error_of_the_house_with_a_hint(code: grpc.StatusCode) -> None:
    found = from_call(FailedCall(code, "raw text of a library"))
    assert isinstance(found, RingfenceError)
    assert found.hint
    assert "raw text" not in found.message


def test_text_of_the_other_side_cannot_steer_a_terminal() -> None:
    arrived = from_call(across_the_wire(PolicyError("no\x1b[2J\nno", hint="a\rb" + "x" * 1000)))
    assert arrived.message == "no [2J no"
    assert arrived.hint.isprintable()
    assert len(arrived.hint) == 300


def test_a_caller_that_asks_too_often_is_told_when_to_come_back() -> None:
    arrived = from_call(across_the_wire(TooOftenError("slowly", retry_after_s=2.25)))
    assert isinstance(arrived, TooOftenError)
    assert arrived.retry_after_s == 2.25
    endless = from_call(across_the_wire(TooOftenError("never", retry_after_s=float("inf"))))
    assert isinstance(endless, TooOftenError)
    assert endless.retry_after_s == 60.0


def test_details_that_are_no_details_are_no_details() -> None:
    trailers = (("grpc-status-details-bin", b"\xff\xff\xff"),)
    found = from_call(FailedCall(grpc.StatusCode.NOT_FOUND, "text", trailers))
    assert type(found) is NotFoundError
