"""What every call to the coordinator passes before its service sees it: a deadline, an admission, clean errors."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any, Protocol

import grpc
import grpc.aio
from google.rpc import status_pb2
from grpc_status import rpc_status

from ringfence.model.errors import (
    ConfigError,
    ConnectionFailedError,
    DeadlineError,
    PeerError,
    RingfenceError,
    StorageBusyError,
    StorageError,
)
from ringfence.model.wire_errors import defect_status, to_status
from ringfence.server.members import Member

LONGEST_DEADLINE_S = 900.0
RECHECK_S = 1.0
"""How often a stream's caller is looked up again while nothing is sent."""
WATCHES = frozenset(
    {
        "/grpc.health.v1.Health/Watch",
        "/ringfence.v1.FederationService/WatchEvents",
    }
)
"""Streams that last as long as what they tell of; they need no deadline, and end with the connection's age."""

_LOG = logging.getLogger("ringfence.control")
_REFLECTION = "/grpc.reflection."
_CALLER: ContextVar[Member] = ContextVar("ringfence_caller")

Context = grpc.aio.ServicerContext[Any, Any]
StillAdmitted = Callable[[], Awaitable[None]]


class _Unreadable:
    """Stands for a request whose bytes are no message of the method."""


class Admission(Protocol):
    """Decides who is served on one listener."""

    def admitted(self, context: Context) -> AbstractAsyncContextManager[StillAdmitted]:
        """Return a block in which a call is served; it yields a check that raises once the caller is served no more.

        Raises:
            RingfenceError: the caller is not served, or not now.
        """
        ...


class AnyOperator:
    """Serves everybody: where only the coordinator's own account can open the listener."""

    @contextlib.asynccontextmanager
    async def admitted(self, context: Context) -> AsyncIterator[StillAdmitted]:
        """Serve one call."""
        yield _always


async def _always() -> None:
    """Agree."""


def calling_member() -> Member:
    """Return the member that made the present call, as its certificate proves.

    Raises:
        ConnectionFailedError: the call came past the guard: nobody is served.
    """
    try:
        return _CALLER.get()
    except LookupError as error:
        raise ConnectionFailedError("The coordinator does not serve this identity.") from error


def note_calling_member(member: Member) -> None:
    """Have `calling_member` return this member for the rest of the present call."""
    _CALLER.set(member)


class CallGuard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # not generic when it runs
    """Refuses calls without a deadline or by somebody who is not admitted, and turns errors into statuses.

    Args:
        admission: decides who is served.
        for_operators: the callers are the coordinator's own people: they are told what is wrong with its files, and may
            list the services by reflection.
    """

    def __init__(self, admission: Admission, *, for_operators: bool = False) -> None:
        self._admission = admission
        self._for_operators = for_operators

    async def intercept_service(  # type: ignore[override]  # the stubs forget that there may be no handler
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of one call."""
        handler: grpc.RpcMethodHandler[Any, Any] | None = await continuation(handler_call_details)
        if handler is None:
            return None  # gRPC answers UNIMPLEMENTED
        method = handler_call_details.method
        if self._for_operators and method.startswith(_REFLECTION):
            return handler
        is_watch = method in WATCHES
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._guard_single(handler.unary_unary),
                request_deserializer=_shielded(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._guard_stream(handler.unary_stream, is_watch=is_watch),
                request_deserializer=_shielded(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        return None  # gRPC answers UNIMPLEMENTED: no service of ours takes streams

    def _guard_single(self, method: Any) -> Any:  # noqa: ANN401 - gRPC's handlers are untyped
        async def guarded(request: object, context: Context) -> object:
            async with self._clean_errors(context):
                _require_deadline(context)
                async with self._admission.admitted(context):
                    return await method(_readable(request), context)

        return guarded

    def _guard_stream(self, method: Any, *, is_watch: bool) -> Any:  # noqa: ANN401 - gRPC's handlers are untyped
        async def guarded_writer(request: object, context: Context) -> None:
            async with self._clean_errors(context):
                if not is_watch:
                    _require_deadline(context)
                async with self._admission.admitted(context) as still_admitted:
                    writing = asyncio.ensure_future(method(_readable(request), context))
                    await _until_done(writing, _Recheck(still_admitted))

        # gRPC's own health service writes to the context; services of ours yield.
        if not inspect.isasyncgenfunction(method):
            return guarded_writer

        async def guarded(request: object, context: Context) -> AsyncIterator[object]:
            async with self._clean_errors(context):
                if not is_watch:
                    _require_deadline(context)
                async with self._admission.admitted(context) as still_admitted:
                    async for message in _while_admitted(method(_readable(request), context), still_admitted):
                        yield message

        return guarded

    @contextlib.asynccontextmanager
    async def _clean_errors(self, context: Context) -> AsyncIterator[None]:
        try:
            yield
        except StorageError as error:
            if self._for_operators:
                await _abort(context, to_status(error))
            _LOG.error("a call failed: %s", error.message)
            busy = StorageBusyError("The coordinator cannot look that up now.", hint="Try again later.")
            await _abort(context, to_status(busy))
        except ConfigError as error:
            if self._for_operators:
                await _abort(context, to_status(error))
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


class _Recheck:
    """Looks a stream's caller up once in a while, not at each of many messages a second."""

    def __init__(self, still_admitted: StillAdmitted) -> None:
        self._still_admitted = still_admitted
        self._due_at = time.monotonic() + RECHECK_S

    async def when_due(self) -> None:
        """Check if it is time.

        Raises:
            RingfenceError: the caller is served no more.
        """
        if time.monotonic() >= self._due_at:
            await self._still_admitted()
            self._due_at = time.monotonic() + RECHECK_S


async def _while_admitted(
    messages: AsyncIterator[object], still_admitted: StillAdmitted
) -> AsyncIterator[object]:
    """Pass on messages for as long as the caller is admitted, also while none comes."""
    check = _Recheck(still_admitted)
    try:
        while True:
            try:
                message = await _until_done(asyncio.ensure_future(anext(messages)), check)
            except StopAsyncIteration:
                return
            yield message
    finally:
        if isinstance(messages, AsyncGenerator):
            await messages.aclose()


async def _until_done(work: asyncio.Future[object], check: _Recheck) -> object:
    """Wait for some work for as long as the caller is admitted; when it is not, or goes, the work is cancelled."""
    try:
        while not work.done():
            await asyncio.wait({work}, timeout=RECHECK_S)
            await check.when_due()
        return work.result()
    finally:
        if not work.done():
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await work


def _shielded(deserializer: Callable[[bytes], object] | None) -> Callable[[bytes], object] | None:
    """Return a deserializer that marks bytes that are no message; gRPC itself would log and send the library's words."""
    if deserializer is None:
        return None

    def read(content: bytes) -> object:
        try:
            return deserializer(content)
        except Exception:  # noqa: BLE001 - whatever the parser says, the caller is told one thing
            return _Unreadable()

    return read


def _readable(request: object) -> object:
    if isinstance(request, _Unreadable):
        raise PeerError("The request is not a message of this call.", hint="Check that the versions match.")
    return request


def _require_deadline(context: Context) -> None:
    remaining_s = context.time_remaining()
    if remaining_s is None or remaining_s > LONGEST_DEADLINE_S:
        raise DeadlineError(
            "The call has no deadline that the coordinator accepts.", hint="Set one of at most 15 minutes."
        )


async def _abort(context: Context, status: status_pb2.Status) -> None:
    made = rpc_status.to_status(status)
    await context.abort(made.code, made.details or "", trailing_metadata=made.trailing_metadata)
