"""One table between our errors and gRPC's: what crosses the wire is a status with ``google.rpc.ErrorInfo``.

The ErrorInfo's reason is the error's stable code, so that the receiving side raises the same class; the gRPC status is for
tools that know nothing of us. A cause, a traceback or a class name never crosses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from ringfence.model.errors import (
    BudgetError,
    ConfigError,
    ConnectionFailedError,
    DataError,
    DeadlineError,
    ExpiredError,
    NotFoundError,
    PeerError,
    PolicyError,
    ReleaseError,
    RingfenceError,
    RollbackError,
    StorageBusyError,
    StorageError,
    TamperedError,
    ThresholdError,
    TooOftenError,
)
from ringfence.model.trust_chain import readable

DOMAIN = "ringfence"
DEFECT_REASON = "DEFECT"
_LONGEST_RETRY_S = 60.0
_TRANSIENT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)

STATUS_OF: Mapping[type[RingfenceError], grpc.StatusCode] = {
    RingfenceError: grpc.StatusCode.UNKNOWN,
    ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    StorageError: grpc.StatusCode.UNAVAILABLE,
    StorageBusyError: grpc.StatusCode.UNAVAILABLE,
    DataError: grpc.StatusCode.INVALID_ARGUMENT,
    PolicyError: grpc.StatusCode.PERMISSION_DENIED,
    BudgetError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    PeerError: grpc.StatusCode.INVALID_ARGUMENT,
    ConnectionFailedError: grpc.StatusCode.UNAUTHENTICATED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    TooOftenError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ReleaseError: grpc.StatusCode.FAILED_PRECONDITION,
    RollbackError: grpc.StatusCode.FAILED_PRECONDITION,
    ExpiredError: grpc.StatusCode.FAILED_PRECONDITION,
    ThresholdError: grpc.StatusCode.FAILED_PRECONDITION,
    TamperedError: grpc.StatusCode.DATA_LOSS,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
}

_WITHOUT_DETAILS: Mapping[grpc.StatusCode, tuple[type[RingfenceError], str, str]] = {
    grpc.StatusCode.UNAVAILABLE: (
        ConnectionFailedError,
        "The coordinator cannot be reached, or one side does not accept the other's certificate.",
        "Check the address and that the coordinator is running; then the certificate: ringfence identity show",
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        DeadlineError,
        "The coordinator did not answer in time.",
        "Try again; if it happens again, ask the coordinator.",
    ),
    grpc.StatusCode.CANCELLED: (DeadlineError, "The call was cancelled.", "Try again."),
    grpc.StatusCode.UNAUTHENTICATED: (
        ConnectionFailedError,
        "The coordinator does not serve this identity.",
        "Ask the coordinator for its status.",
    ),
    grpc.StatusCode.UNIMPLEMENTED: (
        PeerError,
        "The coordinator does not know this call.",
        "Check that both sides run versions that belong together.",
    ),
    grpc.StatusCode.NOT_FOUND: (NotFoundError, "The coordinator does not have it.", "Check the name."),
}


def to_status(error: RingfenceError) -> status_pb2.Status:
    """Return the wire form of an error: message, hint and code, and nothing else."""
    listed = _listed(type(error))
    information = error_details_pb2.ErrorInfo(
        reason=listed.code.upper(), domain=DOMAIN, metadata={"hint": error.hint}
    )
    details = [_packed(information)]
    if isinstance(error, TooOftenError):
        seconds, part = divmod(min(error.retry_after_s, _LONGEST_RETRY_S), 1.0)
        delay = duration_pb2.Duration(seconds=int(seconds), nanos=int(part * 1e9))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=_number(STATUS_OF[listed]), message=error.message, details=details)


def defect_status() -> status_pb2.Status:
    """Return the wire form of a defect of ours: that it is one, and nothing else."""
    details = _packed(error_details_pb2.ErrorInfo(reason=DEFECT_REASON, domain=DOMAIN))
    return status_pb2.Status(
        code=code_pb2.INTERNAL, message="The coordinator met a defect of its own.", details=[details]
    )


def is_transient(error: grpc.RpcError) -> bool:
    """Return whether an idempotent call that failed like this may be made again a little later."""
    call: object = error
    return not isinstance(call, grpc.Call) or call.code() in _TRANSIENT


def from_call(error: grpc.RpcError) -> RingfenceError:
    """Return the error that a failed call stands for; the other side's text is made safe to print."""
    call: object = (
        error  # gRPC raises objects that are both the error and the call, which its types cannot say
    )
    if not isinstance(call, grpc.Call):
        return ConnectionFailedError("The call failed.", hint="Try again.")
    return _from_answer(call)


def _from_answer(error: grpc.Call) -> RingfenceError:
    information = _error_information(error)
    if information is not None and information.domain == DOMAIN:
        message = readable(error.details() or "")
        hint = readable(information.metadata.get("hint", ""))
        for found in STATUS_OF:
            if found.code.upper() == information.reason:
                return _rebuilt(found, message, hint, answer=error)
        if information.reason == DEFECT_REASON:
            return PeerError(message, hint="Tell the coordinator.")
    kind, message, hint = _WITHOUT_DETAILS.get(
        error.code(),
        (PeerError, f"The coordinator answered with {error.code().name}.", "Tell the coordinator."),
    )
    return kind(message, hint=hint)


def _rebuilt(kind: type[RingfenceError], message: str, hint: str, *, answer: grpc.Call) -> RingfenceError:
    if kind is not TooOftenError:
        return kind(message, hint=hint)
    for details in _details(answer):
        retry = error_details_pb2.RetryInfo()
        if details.Unpack(retry):
            delay_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
            return TooOftenError(message, hint=hint, retry_after_s=min(max(delay_s, 0.0), _LONGEST_RETRY_S))
    return TooOftenError(message, hint=hint)


def _error_information(error: grpc.Call) -> error_details_pb2.ErrorInfo | None:
    for details in _details(error):
        information = error_details_pb2.ErrorInfo()
        if details.Unpack(information):
            return information
    return None


def _details(error: grpc.Call) -> Sequence[any_pb2.Any]:
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):
        return ()  # the trailer and the status disagree, or it is none: not one of ours
    return status.details if status is not None else ()


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _listed(kind: type[RingfenceError]) -> type[RingfenceError]:
    # A subclass that is private to a module travels as its nearest listed parent.
    return next(parent for parent in kind.__mro__ if parent in STATUS_OF)


def _number(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number
