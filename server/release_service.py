"""ReleaseService: signed metadata and files to active members. It decides nothing; the signatures do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from ringfence.model.channels import CHUNK_BYTES
from ringfence.model.errors import NotFoundError, PeerError
from ringfence.model.release_messages import list_releases_response
from ringfence.model.wire import release_service_pb2 as wire
from ringfence.model.wire import release_service_pb2_grpc as wire_grpc
from ringfence.server.call_guard import Context, calling_member
from ringfence.server.release_trust import ReleaseTrust


class ReleaseService(wire_grpc.ReleaseServiceServicer):
    """Serves one release repository.

    Args:
        trust: the repository.
    """

    def __init__(self, trust: ReleaseTrust) -> None:
        self._trust = trust

    async def ListReleases(  # noqa: N802 - the name in the .proto file
        self, request: wire.ListReleasesRequest, context: Context
    ) -> wire.ListReleasesResponse:
        """List the releases of both channels."""
        calling_member()
        return await asyncio.to_thread(
            lambda: list_releases_response(
                {"stable": self._trust.releases("stable"), "candidate": self._trust.releases("candidate")}
            )
        )

    async def GetMetadata(  # noqa: N802 - the name in the .proto file
        self, request: wire.GetMetadataRequest, context: Context
    ) -> wire.GetMetadataResponse:
        """Return one metadata file."""
        calling_member()
        path = self._trust.repository.metadata_file(request.name)
        if path is None:
            # Clients probe for the next root until there is none: this is the ordinary end of an update.
            raise NotFoundError("There is no such metadata.")
        return wire.GetMetadataResponse(content=await asyncio.to_thread(path.read_bytes))

    async def DownloadArtifact(  # noqa: N802 - the name in the .proto file
        self, request: wire.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[wire.DownloadArtifactResponse]:
        """Stream one file from an offset, in chunks of 256 KiB."""
        calling_member()
        path = self._trust.repository.artifact_file(request.path)
        if path is None:
            raise NotFoundError("There is no such file.")
        with path.open("rb") as file:
            size_bytes = file.seek(0, 2)
            if not 0 <= request.offset <= size_bytes:
                raise PeerError("The offset lies outside the file.", hint="Start the download again.")
            file.seek(request.offset)
            yield wire.DownloadArtifactResponse(
                header=wire.ArtifactHeader(size_bytes=size_bytes, offset=request.offset)
            )
            while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield wire.DownloadArtifactResponse(chunk=wire.ArtifactChunk(data=data))
