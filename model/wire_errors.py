"""One table between our errors and gRPC's: what crosses the wire is a status with ``google.rpc.ErrorInfo``.

The ErrorInfo's reason is the error's stable code, so that the receiving side raises the same class; the gRPC status is for
tools that know nothing of us. A cause, a traceback or a class name never crosses.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2
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
)
from ringfence.model.trust_chain import readable

DOMAIN = "ringfence"
DEFECT_REASON = "DEFECT"

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
    details = any_pb2.Any()
    details.Pack(information)
    return status_pb2.Status(code=_number(STATUS_OF[listed]), message=error.message, details=[details])


def defect_status() -> status_pb2.Status:
    """Return the wire form of a defect of ours: that it is one, and nothing else."""
    details = any_pb2.Any()
    details.Pack(error_details_pb2.ErrorInfo(reason=DEFECT_REASON, domain=DOMAIN))
    return status_pb2.Status(
        code=code_pb2.INTERNAL, message="The coordinator met a defect of its own.", details=[details]
    )


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
                return found(message, hint=hint)
        if information.reason == DEFECT_REASON:
            return PeerError(message, hint="Tell the coordinator.")
    kind, message, hint = _WITHOUT_DETAILS.get(
        error.code(),
        (PeerError, f"The coordinator answered with {error.code().name}.", "Tell the coordinator."),
    )
    return kind(message, hint=hint)


def _error_information(error: grpc.Call) -> error_details_pb2.ErrorInfo | None:
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        return None  # the trailer and the status disagree: not one of ours
    for details in status.details if status is not None else ():
        information = error_details_pb2.ErrorInfo()
        if details.Unpack(information):
            return information
    return None


def _listed(kind: type[RingfenceError]) -> type[RingfenceError]:
    # A subclass that is private to a module travels as its nearest listed parent.
    return next(parent for parent in kind.__mro__ if parent in STATUS_OF)


def _number(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number
