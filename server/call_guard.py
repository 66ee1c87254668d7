"""What every call to the coordinator passes before its service sees it: a deadline, an active member, clean errors."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc
import grpc.aio
from google.rpc import status_pb2
from grpc_status import rpc_status

from ringfence.model.certificates import identity_of_certificate
from ringfence.model.errors import (
    ConfigError,
    ConnectionFailedError,
    DeadlineError,
    PeerError,
    RingfenceError,
)
from ringfence.model.wire_errors import defect_status, to_status
from ringfence.server.members import ActiveMembers, Member

LONGEST_DEADLINE_S = 900.0

_LOG = logging.getLogger(__name__)
_HEALTH = "/grpc.health.v1.Health/"
_CALLER: ContextVar[Member] = ContextVar("ringfence_caller")

Context = grpc.aio.ServicerContext[Any, Any]


def calling_member() -> Member:
    """Return the member that made the present call, as its certificate proves.

    Raises:
        ConnectionFailedError: the call came past the guard: nobody is served.
    """
    try:
        return _CALLER.get()
    except LookupError as error:
        raise ConnectionFailedError("The coordinator does not serve this identity.") from error


class CallGuard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # not generic when it runs
    """Refuses calls without a deadline or by anybody but an active member, and turns errors into statuses.

    The caller is known by the certificate of its connection alone, never by a field or a header.

    Args:
        members: whom to serve.
    """

    def __init__(self, members: ActiveMembers) -> None:
        self._members = members

    async def intercept_service(  # type: ignore[override]  # the stubs forget that there may be no handler
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of one call."""
        handler: grpc.RpcMethodHandler[Any, Any] | None = await continuation(handler_call_details)
        if handler is None:
            return None  # gRPC answers UNIMPLEMENTED
        # Health is asked by the same bearers of certificates, but also by a suspended one, and watched without an end.
        is_health = handler_call_details.method.startswith(_HEALTH)
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._guard_single(handler.unary_unary, is_health=is_health),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.unary_stream is not None:
            if is_health:
                return handler
            return grpc.unary_stream_rpc_method_handler(
                self._guard_stream(handler.unary_stream),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return None  # gRPC answers UNIMPLEMENTED: no service of ours takes streams

    def _guard_single(self, method: Any, *, is_health: bool) -> Any:  # noqa: ANN401 - gRPC's handlers are untyped
        async def guarded(request: object, context: Context) -> object:
            try:
                _require_deadline(context)
                if not is_health:
                    _CALLER.set(self._identify(context))
                return await method(request, context)
            except ConfigError as error:
                # The coordinator's own trouble, not the caller's: its paths and settings stay here.
                _LOG.error("a call failed: %s", error.message)
                await _abort(context, defect_status())
            except RingfenceError as error:
                await _abort(context, to_status(error))
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - the border: what is not ours must not leave as text
                _LOG.error("a defect in a call: %s", type(error).__name__)
                await _abort(context, defect_status())
            return None

        return guarded

    def _guard_stream(self, method: Any) -> Any:  # noqa: ANN401 - gRPC's handlers are untyped
        async def guarded(request: object, context: Context) -> AsyncIterator[object]:
            try:
                _require_deadline(context)
                caller = self._identify(context)
                _CALLER.set(caller)
                async for message in method(request, context):
                    # A member that is suspended while a long download runs gets no further.
                    self._members.by_spiffe_id(caller.spiffe_id)
                    yield message
            except ConfigError as error:
                # The coordinator's own trouble, not the caller's: its paths and settings stay here.
                _LOG.error("a call failed: %s", error.message)
                await _abort(context, defect_status())
            except RingfenceError as error:
                await _abort(context, to_status(error))
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - the border: what is not ours must not leave as text
                _LOG.error("a defect in a call: %s", type(error).__name__)
                await _abort(context, defect_status())

        return guarded

    def _identify(self, context: Context) -> Member:
        properties = context.auth_context()
        certificates = list(properties.get("x509_pem_cert", ()))
        if list(properties.get("transport_security_type", ())) != [b"ssl"] or len(certificates) != 1:
            raise ConnectionFailedError("The coordinator does not serve this identity.")
        try:
            identity = identity_of_certificate(certificates[0])
        except PeerError as error:
            raise ConnectionFailedError("The coordinator does not serve this identity.") from error
        member = self._members.by_spiffe_id(identity.spiffe_id)
        if member.certificate_public_key != identity.public_key:
            # An older certificate of the same name, for a key that was replaced: its week is not waited out.
            raise ConnectionFailedError("The coordinator does not serve this identity.")
        return member


def _require_deadline(context: Context) -> None:
    remaining_s = context.time_remaining()
    if remaining_s is None or remaining_s > LONGEST_DEADLINE_S:
        raise DeadlineError(
            "The call has no deadline that the coordinator accepts.", hint="Set one of at most 15 minutes."
        )


async def _abort(context: Context, status: status_pb2.Status) -> None:
    made = rpc_status.to_status(status)
    await context.abort(made.code, made.details or "", trailing_metadata=made.trailing_metadata)
