"""A coordinator and three members with their keys and a published root of trust, and ways to attack it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from databases import write_database_url
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from ringfence.client.approvals import ApprovalClient, sign_draft
from ringfence.client.identity import install_identity, make_request
from ringfence.client.member_home import MemberHome
from ringfence.client.releases import ReleaseStore
from ringfence.model.channels import open_channel
from ringfence.model.drafts import Draft
from ringfence.model.key_files import load_signing_key
from ringfence.server.admission import admit_member
from ringfence.server.certificate_authority import load_certificate_authority
from ringfence.server.control_plane import RunningControlPlane, serve_control_plane
from ringfence.server.coordinator_database import open_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.initialisation import initialise_coordinator
from ringfence.server.members import ActiveMembers, Member, MemberRegistry
from ringfence.server.publication import load_signers, next_state
from ringfence.server.release_repository import RepositoryState
from ringfence.server.release_trust import ReleaseTrust
from ringfence.server.trust_bundle import compose_bundle

FEDERATION = "example"
NAMES = ("acme", "beta", "gamma")
FILES: Mapping[str, bytes] = {
    "README.md": b"a card\n",
    "model.safetensors": b"weights" * 1000,
    "features/table": b"t" * 99,
}


@dataclass
class TrustFederation:
    """The folders of a federation, and what its people do."""

    root: Path
    home: CoordinatorHome
    settings: CoordinatorSettings
    members: dict[str, MemberHome]
    clock: list[datetime] = field(default_factory=lambda: [datetime.now(UTC)])

    @property
    def registry(self) -> MemberRegistry:
        return MemberRegistry(open_database(self.home))

    @property
    def active(self) -> tuple[Member, ...]:
        return ActiveMembers(self.registry).all()

    @property
    def trust(self) -> ReleaseTrust:
        return ReleaseTrust(self.home, now=lambda: self.clock[0])

    @property
    def metadata(self) -> Path:
        """The folder of metadata that is served now."""
        return (self.home.repository / "metadata").resolve()

    def admit(self, name: str) -> Member:
        member = self.members.setdefault(name, MemberHome(self.root / name))
        return admit_member(
            make_request(member),
            member=name,
            authority=load_certificate_authority(self.home, federation=FEDERATION),
            registry=self.registry,
            now=self.clock[0],
        )

    def welcome(self, name: str) -> None:
        """Give a member what it would have by joining with an invitation now."""
        install_identity(
            self.members[name],
            bundle=compose_bundle(self.home, settings=self.settings, now=self.clock[0]),
            certificate=self.registry.get(name).certificate,
            now=self.clock[0],
        )

    def sign(self, draft: Draft, *names: str) -> None:
        """Members sign a draft from a file, without evaluating anything."""
        for name in names:
            signatures = sign_draft(self.members[name], draft=draft, unsafe_unseen=True)
            self.trust.accept_signatures(draft.id, signatures=signatures, members=self.active)

    def release(
        self, version: str, *, files: Mapping[str, bytes] = FILES, signers: Sequence[str] = ("acme", "beta")
    ) -> RepositoryState:
        """Draft, sign and publish a stable release."""
        self.catch_up(*signers)
        draft = self.trust.draft_release(self.folder(version, files=files), version=version)
        self.sign(draft, *signers)
        return self.trust.publish(draft.id)

    def yank(self, version: str, *, signers: Sequence[str] = ("acme", "beta")) -> None:
        self.catch_up(*signers)
        draft = self.trust.draft_yank(version, reason="wrong thresholds")
        self.sign(draft, *signers)
        self.trust.publish(draft.id)

    def catch_up(self, *names: str) -> None:
        """Members fetch the newest metadata, to compare a draft with."""
        with self.serving() as address:
            for name in names:
                self.store(name, address).refresh()

    def folder(self, name: str, *, files: Mapping[str, bytes] = FILES) -> Path:
        folder = self.root / "content" / name
        for file_name, content in files.items():
            (folder / file_name).parent.mkdir(parents=True, exist_ok=True)
            (folder / file_name).write_bytes(content)
        return folder

    def approval_signer(self, name: str) -> CryptoSigner:
        return CryptoSigner(load_signing_key(self.members[name].approval_key_file))

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Serve the real control plane on a free loopback port, in a thread of its own; yield its address."""
        with self.running() as found:
            yield found.address

    @contextlib.contextmanager
    def running(self) -> Iterator[RunningControlPlane]:
        """Serve the real control plane on free loopback ports, in a thread of its own; yield where."""
        started, loop = threading.Event(), asyncio.new_event_loop()
        found: list[RunningControlPlane] = []
        stop = asyncio.Event()

        async def serve() -> None:
            try:
                async with serve_control_plane(
                    self.home, self.settings, now=lambda: self.clock[0]
                ) as running:
                    found.append(running)
                    started.set()
                    await stop.wait()
            finally:
                started.set()

        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
        thread.start()
        started.wait(timeout=30)
        try:
            yield found[0]
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(timeout=30)
            loop.close()

    def channel(self, name: str, address: str) -> grpc.Channel:
        member = self.members[name]
        return open_channel(
            address,
            ca_file=member.ca_file,
            key_file=member.key_file,
            certificate_file=member.certificate_file,
        )

    def store(self, name: str, address: str) -> ReleaseStore:
        return ReleaseStore(self.members[name], open_channel=lambda: self.channel(name, address))

    def approvals(self, name: str, address: str) -> ApprovalClient:
        return ApprovalClient(self.channel(name, address))

    # What an attacker that owns the coordinator's machine can do.

    def write_metadata(self, name: str, content: bytes) -> None:
        path = self.metadata / name
        path.unlink(missing_ok=True)
        path.write_bytes(content)

    def force(self, *, signers_now: datetime | None = None, **changed: Metadata) -> None:
        """Serve changed roles under a fresh, validly signed snapshot and timestamp, past every check."""
        state = next_state(
            load_signers(self.home),
            present=self.trust.repository.read(),
            now=signers_now or self.clock[0],
            **changed,
        )
        for role in ("root", "targets", "stable", "candidate", "snapshot"):
            metadata = getattr(state, role)
            self.write_metadata(f"{metadata.signed.version}.{role}.json", metadata.to_bytes())
        self.write_metadata("timestamp.json", state.timestamp.to_bytes())


def make_trust_federation(root: Path, *, names: Sequence[str] = NAMES) -> TrustFederation:
    """Admit members, hold the first ceremony with acme and beta, and welcome everybody."""
    federation = prepare_trust_federation(root, names=names)
    draft = federation.trust.draft_trust(federation.active)
    federation.sign(draft, *names[:2])
    federation.trust.publish(draft.id)
    for name in names:
        federation.welcome(name)
    return federation


def prepare_trust_federation(
    root: Path, *, names: Sequence[str] = NAMES, database_url: str | None = None
) -> TrustFederation:
    """Set up a coordinator and admit members; nothing is drafted yet."""
    federation = TrustFederation(
        root=root,
        home=CoordinatorHome(root / "coordinator"),
        settings=CoordinatorSettings(
            federation=FEDERATION,
            demonstration=True,
            release_address="127.0.0.1:0",
            enrolment_address="127.0.0.1:0",
            fleet_address="127.0.0.1:0",
            database_url_file=write_database_url(root, database_url),
        ),
        members={},
    )
    initialise_coordinator(federation.home, settings=federation.settings, now=federation.clock[0])
    for name in names:
        federation.admit(name)
    return federation


class CuttingProxy:
    """Passes bytes between a client and a server, and cuts the first connections after some bytes."""

    def __init__(self, target: str, *, cuts: int, after_bytes: int) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._cuts_left = cuts
        self._after_bytes = after_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            limit = self._after_bytes if self._cuts_left > 0 else None
            self._cuts_left -= 1
            threading.Thread(target=self._pump, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, limit), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while block := source.recv(65536):
                sink.sendall(block)
                passed += len(block)
                if limit is not None and passed > limit:
                    self.cut += 1
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


LONG_AGO = timedelta(days=5)
