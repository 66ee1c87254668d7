"""The first root of trust at a founding member: agreed on with the others after joining, and pinned once it is published.

Whoever joins later has it pinned by the invitation. A founding member takes it from the coordinator, but only one that this
member signed itself, or, if it was not asked to sign, one in which its own approval key stands.
"""

from __future__ import annotations

import hashlib
import json

import grpc
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata, Root

from ringfence.client.member_home import MemberHome
from ringfence.model.atomic_file import write_atomically
from ringfence.model.channels import CALL_DEADLINE_S
from ringfence.model.errors import ConfigError, NotFoundError, TamperedError
from ringfence.model.joining import JoinRequest
from ringfence.model.trust_chain import check_first_root
from ringfence.model.wire import release_service_pb2 as wire
from ringfence.model.wire.release_service_pb2_grpc import ReleaseServiceStub
from ringfence.model.wire_errors import from_call

_FIRST_ROOT = "1.root.json"


def note_agreed_root(home: MemberHome, *, root: Metadata[Root]) -> None:
    """Remember a first root of trust that this member signs, so that no other one is taken for it.

    Raises:
        ConfigError: the folder cannot be written. The operator's to mend.
    """
    if home.root_file.exists():
        return
    agreed = sorted({*_agreed(home), _digest(root)})
    try:
        write_atomically(home.agreed_roots_file, json.dumps(agreed).encode())
    except OSError as error:
        raise ConfigError(
            f"Cannot write {home.agreed_roots_file}: {error.strerror}", hint="Check the folder."
        ) from error


def pin_first_root(home: MemberHome, *, channel: grpc.Channel) -> bool:
    """Fetch the first root of trust and pin it, unless one is pinned; return whether one is now.

    Args:
        home: the member's folder.
        channel: to the coordinator, with the member's certificate.

    Raises:
        ReleaseError: the root is not the one that this member signed, or too few of its keys signed it.
        RingfenceError: the coordinator cannot be reached or refuses.
    """
    if home.root_file.exists():
        return True
    try:
        content = _fetch(channel)
    except NotFoundError:
        return False  # the members have not agreed on one yet
    root = check_first_root(content)
    if root.signed.version != 1:
        raise TamperedError(
            "The coordinator's first root of trust is not the first.", hint="Tell the other members."
        )
    agreed = _agreed(home)
    if agreed and _digest(root) not in agreed:
        raise TamperedError(
            "The published root of trust is another one than this member signed.",
            hint="Take no release; ask the other members which root they have.",
        )
    if _own_key_id(home) not in root.signed.roles[Root.type].keyids:
        raise TamperedError(
            "This member's approval key is not in the published root of trust.",
            hint="Ask the coordinator for a new invitation: it pins the root that the members agreed on.",
        )
    write_atomically(home.root_file, content)
    return True


def _own_key_id(home: MemberHome) -> str:
    # From the request, because the private key may have gone to its person's own machine.
    try:
        request = JoinRequest.model_validate_json(home.request_file.read_bytes())
        key = load_pem_public_key(request.approval_public_key.encode())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{home.request_file} is missing or damaged.",
            hint="Restore it, or join again with a new invitation.",
        ) from error
    return SSlibKey.from_crypto(key).keyid


def _fetch(channel: grpc.Channel) -> bytes:
    request = wire.GetMetadataRequest(name=_FIRST_ROOT)
    try:
        content: bytes = ReleaseServiceStub(channel).GetMetadata(request, timeout=CALL_DEADLINE_S).content
    except grpc.RpcError as error:
        raise from_call(error) from error
    return content


def _agreed(home: MemberHome) -> tuple[str, ...]:
    try:
        return tuple(json.loads(home.agreed_roots_file.read_bytes()))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError) as error:
        # Never taken for "nothing was signed": another root could then be slipped in.
        raise ConfigError(
            f"{home.agreed_roots_file} is damaged.", hint="Restore it from a backup."
        ) from error


def _digest(root: Metadata[Root]) -> str:
    return hashlib.sha256(root.signed_bytes).hexdigest()
