"""How ``tuf.ngclient`` reaches the coordinator: metadata and files over ReleaseService, with resumed downloads.

It moves bytes and believes nothing; the Updater around it checks lengths, hashes and signatures.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.ngclient import FetcherInterface

from ringfence.model.channels import CALL_DEADLINE_S, STREAM_DEADLINE_S
from ringfence.model.wire import release_service_pb2 as wire
from ringfence.model.wire.release_service_pb2_grpc import ReleaseServiceStub
from ringfence.model.wire_errors import from_call

METADATA_URL = "metadata:/"
ARTIFACT_URL = "artifact:/"

_READ_BYTES = 1 << 20
_TRANSIENT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how soon an idempotent call is tried again.

    Attributes:
        attempts: tries in a row without progress, 1 or more.
        base_s: wait before the second try, in seconds; doubles with each.
        cap_s: longest wait, in seconds.
        progress_bytes: an attempt that brought at least this much counts as progress. A peer that lets bytes drip runs
            out of attempts (slow retrieval; TUF specification, section 1.5.2).
    """

    attempts: int = 5
    base_s: float = 0.2
    cap_s: float = 5.0
    progress_bytes: int = 1 << 20

    def wait_s(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row."""
        return min(self.cap_s, self.base_s * 2.0 ** (failures - 1))


class GrpcFetcher(FetcherInterface):
    """Fetches over a channel; a download that was cut goes on where it stopped, also after a restart.

    Args:
        channel: to the coordinator.
        partial_folder: where unfinished downloads lie; it exists.
        retry: how often a call is tried again.
        sleep: waits for some seconds.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        *,
        partial_folder: Path,
        retry: Retry | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._stub = ReleaseServiceStub(channel)
        self._partial_folder = partial_folder
        self._retry = retry or Retry()
        self._sleep = sleep
        self.resumed = 0

    def discard_partial(self) -> None:
        """Forget unfinished downloads: after a mismatch nothing of them is worth keeping."""
        for part in self._partial_folder.glob("*.part"):
            part.unlink(missing_ok=True)

    def _fetch(self, url: str) -> Iterator[bytes]:
        if url.startswith(METADATA_URL):
            return self._metadata(url.removeprefix(METADATA_URL))
        if url.startswith(ARTIFACT_URL):
            return self._artifact(url.removeprefix(ARTIFACT_URL))
        raise DownloadError("no such address")

    def _metadata(self, name: str) -> Iterator[bytes]:
        failures = 0
        while True:
            try:
                content = self._stub.GetMetadata(
                    wire.GetMetadataRequest(name=name), timeout=CALL_DEADLINE_S
                ).content
                break
            except grpc.RpcError as error:
                failures += 1
                self._wait_or_give_up(error, failures=failures)
        yield content

    def _artifact(self, path: str) -> Iterator[bytes]:
        # The path carries the content's hash: parts of different contents can never mix.
        part = self._partial_folder / f"{hashlib.sha256(path.encode()).hexdigest()}.part"
        offset = 0
        with contextlib.suppress(FileNotFoundError), part.open("rb") as file:
            while block := file.read(_READ_BYTES):
                offset += len(block)
                yield block
        failures, size_bytes = 0, -1
        while size_bytes < 0 or offset < size_bytes:
            began_at = offset
            try:
                with part.open("ab") as file:
                    request = wire.DownloadArtifactRequest(path=path, offset=offset)
                    for message in self._stub.DownloadArtifact(request, timeout=STREAM_DEADLINE_S):
                        if message.WhichOneof("message") == "header":
                            if message.header.offset != offset:
                                raise DownloadError("the coordinator answered with another part of the file")
                            size_bytes = message.header.size_bytes
                            continue
                        file.write(message.chunk.data)
                        offset += len(message.chunk.data)
                        yield message.chunk.data
                if size_bytes < 0:
                    raise DownloadError("the coordinator sent no header")
                if offset == began_at and offset < size_bytes:
                    raise DownloadError("the coordinator sent nothing more of the file")
            except grpc.RpcError as error:
                failures = 1 if offset - began_at >= self._retry.progress_bytes else failures + 1
                self._wait_or_give_up(error, failures=failures)
                self.resumed += 1
        part.unlink(missing_ok=True)

    def _wait_or_give_up(self, error: grpc.RpcError, *, failures: int) -> None:
        answer: object = error  # gRPC raises objects that are both the error and the call
        code = answer.code() if isinstance(answer, grpc.Call) else grpc.StatusCode.UNAVAILABLE
        if code == grpc.StatusCode.NOT_FOUND:
            raise DownloadHTTPError("not found", 404) from error
        if code not in _TRANSIENT or failures >= self._retry.attempts:
            # The cause says in our own terms what happened; see `update_errors`.
            raise DownloadError("the call failed") from from_call(error)
        self._sleep(self._retry.wait_s(failures))
