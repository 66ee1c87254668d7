"""A gateway that really listens, with members' certificates, in front of an application that takes everything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from federation_harness import MadeFederation, make_federation, wait_until
from fleet_attacker import Credentials, RawCaller

from ringfence.server.fleet_connections import PeerCertificateProtocol, mutual_tls
from ringfence.server.fleet_gateway import FleetGateway
from ringfence.server.fleet_intake import Intake
from ringfence.server.rate_limit import RateLimit


@dataclass
class Counting:
    """Stands where the SuperLink stands, takes everything and keeps what reaches it."""

    bodies: list[bytes] = field(default_factory=list)

    async def __call__(self, scope, receive, send) -> None:
        """Read the whole request, then answer 200."""
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@dataclass(frozen=True)
class Door:
    """Where the gateway listens, who may knock, and what came through."""

    federation: MadeFederation
    address: str
    reached: Counting

    def caller(self, name: str) -> RawCaller:
        home = self.federation.members[name]
        return RawCaller(
            self.address,
            ca_file=home.ca_file,
            credentials=Credentials.of(home),
            node_key_file=home.key_file,
        )


@contextmanager
def open_door(
    folder: Path,
    *,
    intake: Intake | None = None,
    rate_limit: RateLimit | None = None,
    before_look: Callable[[str], None] = lambda _member: None,
) -> Iterator[Door]:
    """Serve a gateway for the length of the block; ``before_look`` is the database, as it is unwell."""
    federation = make_federation(folder, conversations=2)
    registry, home, counting = federation.registry, federation.coordinator, Counting()

    def member_of(key: bytes) -> str | None:
        member = registry.find_by_public_key(key)
        if member is not None:
            before_look(member.id)
        return member.id if member is not None and member.status == "active" else None

    gateway = FleetGateway(counting, member_of=member_of, intake=intake, rate_limit=rate_limit)
    tls = mutual_tls(
        certificate_file=home.server_certificate_file, key_file=home.server_key_file, ca_file=home.ca_file
    )
    config = uvicorn.Config(
        gateway,
        port=0,
        http=PeerCertificateProtocol,
        lifespan="off",
        log_config=None,
        ssl_certfile=str(home.server_certificate_file),
        ssl_keyfile=str(home.server_key_file),
        ssl_context_factory=lambda _config, _default: tls,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, what="the gateway listens", timeout_s=60)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Door(federation, f"127.0.0.1:{port}", counting)
    finally:
        server.should_exit = True
        thread.join(10)
