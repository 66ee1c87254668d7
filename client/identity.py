"""A member's identity: keys made here, a certificate for them, and what it trusts because its invitation pinned it.

The key of mutual TLS serves the training host. The approval key is another one on purpose: it countersigns releases and
belongs to a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from pydantic import ValidationError

from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import (
    DataSettings,
    MemberSettings,
    load_member_settings,
    save_member_settings,
)
from ringfence.client.policy_text import ensure_policy
from ringfence.model.atomic_file import write_atomically
from ringfence.model.certificates import MemberIdentity, identity_of_certificate
from ringfence.model.errors import ConfigError, PeerError
from ringfence.model.joining import JoinRequest, TrustBundle
from ringfence.model.key_files import (
    load_signing_key,
    load_transport_key,
    make_signing_key,
    make_transport_key,
    public_pem,
)
from ringfence.model.plan import describe
from ringfence.model.trust_chain import check_first_root

DEFAULT_SIZE_CLASS = 256
_ASK_AGAIN = "Ask the coordinator for a new invitation."


@dataclass(frozen=True, slots=True)
class InstalledIdentity:
    """Who this member is, as its own files say.

    Attributes:
        identity: federation, member and public key of the certificate.
        begins_at: when the certificate begins, UTC.
        expires_at: when it ends, UTC.
    """

    identity: MemberIdentity
    begins_at: datetime
    expires_at: datetime


def make_request(
    home: MemberHome, *, size_class: int = DEFAULT_SIZE_CLASS, invitation: str = ""
) -> JoinRequest:
    """Make this company's keys, and return what it asks to be admitted with.

    Keys that are there already are kept. What was asked for with an invitation is asked for again, byte for byte and size
    class included, for as long as the keys are the same: sent again after a crash or a lost answer, it has the same answer.

    Args:
        home: the member's folder; made if missing.
        size_class: power of two near the number of conversations; it becomes public.
        invitation: identifier of the one that it goes with; "" for none.

    Raises:
        ConfigError: the size class is not in the agreed form, the folder cannot be written, or a key is damaged. The operator's to mend.
    """
    try:
        # Before any key is made, so that a slip leaves nothing behind.
        wished = JoinRequest(csr="-", approval_public_key="-", identity_public_key="-", size_class=size_class)
    except ValidationError as error:
        raise ConfigError(
            f"This cannot be asked for: {describe(error)}", hint="Correct what is named."
        ) from error
    home.create()
    key = load_transport_key(home.key_file) if home.key_file.exists() else make_transport_key(home.key_file)
    approval, own = (
        load_signing_key(file) if file.exists() else make_signing_key(file)
        for file in (home.approval_key_file, home.identity_key_file)
    )
    wished = wished.model_copy(
        update={
            "approval_public_key": public_pem(approval.public_key()),
            "identity_public_key": public_pem(own.public_key()),
        }
    )
    earlier = _earlier_request(home, key=public_pem(key.public_key()))
    if earlier is not None:
        same = earlier.model_copy(update={"csr": wished.csr, "size_class": wished.size_class}) == wished
        if same and (earlier.size_class == wished.size_class or _was_sent_with(home, invitation)):
            _write(home, {home.request_invitation_file: invitation.encode()})
            return earlier
    # No name in it: the coordinator decides the name, and ignores what a request says.
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    request = wished.model_copy(update={"csr": csr.public_bytes(serialization.Encoding.PEM).decode("ascii")})
    _write(
        home,
        {
            home.request_file: request.model_dump_json(indent=2).encode() + b"\n",
            home.request_invitation_file: invitation.encode(),
        },
    )
    return request


def check_bundle(home: MemberHome, *, bundle: TrustBundle) -> None:
    """Raise unless a bundle may become what this folder's member believes; nothing is written.

    Raises:
        ConfigError: the folder belongs to another federation. The operator's to mend.
        PeerError: the bundle brings another root than the one that is pinned here.
        ReleaseError: its root of releases is not signed by enough of its own keys. The coordinator's fault.
    """
    if home.settings_file.exists():
        present = load_member_settings(home, environment={})
        if present.federation != bundle.federation:
            raise ConfigError(
                f"This folder belongs to the federation {present.federation}.", hint="Choose another --home."
            )
    root = bundle.trust_root_bytes()
    if root is not None:
        check_first_root(root)
    for file, brought in ((home.ca_file, bundle.ca.encode()), (home.root_file, root)):
        if brought is not None and file.exists() and file.read_bytes() != brought:
            raise PeerError(
                "The invitation brings another root of trust than the one that is pinned here.",
                hint="Ask the coordinator by another way, for instance the telephone, before anything else.",
            )


def install_identity(
    home: MemberHome,
    *,
    bundle: TrustBundle,
    certificate: str,
    now: datetime,
    size_class: int = DEFAULT_SIZE_CLASS,
    files: Sequence[str] = (),
) -> MemberSettings:
    """Check a certificate, and install it with what the bundle brings: roots of trust, settings; and a first policy.

    A later one renews the certificate; an earlier one, as an old invitation brings it, leaves the present in place. Neither
    may move the member to another federation or replace a pinned root.

    Args:
        home: the member's folder, with the keys made by `make_request`.
        bundle: what the invitation pinned.
        certificate: the chain that the coordinator issued, PEM.
        now: the present, UTC.
        size_class: the member's public size class, as it was asked for.
        files: JSONL files of conversations; none keeps what the settings say.

    Raises:
        ConfigError: the keys are missing, or this member belongs to another federation. The operator's to mend.
        PeerError: the certificate is not for this key or this federation, or its CA did not sign it.
        ReleaseError: the root of trust is not signed by enough of its own keys. The coordinator's fault.
    """
    key = load_transport_key(home.key_file)
    identity = check_certificate(certificate.encode(), ca=bundle.ca.encode(), now=now)
    if identity.public_key != public_pem(key.public_key()):
        raise PeerError("The certificate is for another key than this member's.", hint=_ASK_AGAIN)
    if identity.federation != bundle.federation:
        raise PeerError("The certificate is for another federation.", hint=_ASK_AGAIN)
    check_bundle(home, bundle=bundle)
    data = DataSettings()
    if home.settings_file.exists():
        present = load_member_settings(home, environment={})
        if present.member != identity.member:
            raise ConfigError(
                f"This folder belongs to the member {present.member}.", hint="Choose another --home."
            )
        data = present.data
    settings = MemberSettings(
        federation=bundle.federation,
        member=identity.member,
        fleet_address=bundle.fleet_address,
        release_address=bundle.release_address,
        demonstration=bundle.demonstration,
        plan_public_key=bundle.plan_public_key,
        size_class=size_class,
        data=data.model_copy(update={"files": tuple(files)}) if files else data,
    )
    root = bundle.trust_root_bytes()
    _write(
        home,
        {
            home.ca_file: bundle.ca.encode(),
            **({home.root_file: root} if root is not None else {}),
            home.certificate_file: _later_chain(
                home, brought=certificate.encode(), ca=bundle.ca.encode(), now=now
            ),
        },
    )
    # A company that wrote its policy before it joined keeps it.
    ensure_policy(home, federation=bundle.federation, demonstration=bundle.demonstration)
    # Last: settings that exist say that the rest is there.
    save_member_settings(home, settings=settings)
    return settings


def install_certificate(home: MemberHome, *, certificate: str, now: datetime) -> InstalledIdentity:
    """Check a renewed certificate and put it in the place of the present one, at once.

    Args:
        home: the member's folder.
        certificate: the chain that the coordinator issued, PEM.
        now: the present, UTC.

    Raises:
        ConfigError: a file of this member is missing. The operator's to mend.
        PeerError: the certificate is not for this member's key and name, or its CA did not sign it.
    """
    key = load_transport_key(home.key_file)
    present = read_identity(home).identity
    renewed = check_certificate(certificate.encode(), ca=_read(home.ca_file), now=now)
    if renewed != present or renewed.public_key != public_pem(key.public_key()):
        raise PeerError("The new certificate is not for this member.", hint="Tell the coordinator.")
    _write(home, {home.certificate_file: certificate.encode()})
    return read_identity(home)


def read_identity(home: MemberHome) -> InstalledIdentity:
    """Return who this member is, from its certificate.

    Raises:
        ConfigError: this member has not joined, or the certificate cannot be read. The operator's to mend.
    """
    try:
        chain = home.certificate_file.read_bytes()
        certificate = x509.load_pem_x509_certificate(chain)
    except (OSError, ValueError) as error:
        raise ConfigError(
            "This member has no certificate yet.", hint="Join first: ringfence join INVITATION"
        ) from error
    return InstalledIdentity(
        identity_of_certificate(chain), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    )


def check_certificate(chain: bytes, *, ca: bytes, now: datetime) -> MemberIdentity:
    """Return who a certificate names, after checking that the CA issued it for a client and that it is valid now.

    Args:
        chain: certificate, then intermediates, PEM.
        ca: the federation's CA certificates, PEM.
        now: the present, UTC.

    Raises:
        PeerError: it is not. The coordinator's fault.
    """
    try:
        leaf, *intermediates = x509.load_pem_x509_certificates(chain)
        if now < leaf.not_valid_before_utc:
            raise PeerError(
                f"The certificate begins at {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, and this machine's clock says"
                f" {now:%Y-%m-%d %H:%M}.",
                hint="Set the clock, for instance with NTP, and try again.",
            )
        store = Store(x509.load_pem_x509_certificates(ca))
        PolicyBuilder().store(store).time(now).build_client_verifier().verify(leaf, intermediates)
    except (ValueError, VerificationError) as error:
        raise PeerError(
            "The certificate was not issued by the federation's CA, or is not valid now.", hint=_ASK_AGAIN
        ) from error
    return identity_of_certificate(chain)


def _was_sent_with(home: MemberHome, invitation: str) -> bool:
    try:
        return invitation != "" and home.request_invitation_file.read_text(encoding="ascii") == invitation
    except (OSError, UnicodeDecodeError):
        return False


def _later_chain(home: MemberHome, *, brought: bytes, ca: bytes, now: datetime) -> bytes:
    """Return the chain that holds longer: the one that is brought, or the present one, if it is the same member's and good."""
    try:
        present = home.certificate_file.read_bytes()
        if check_certificate(present, ca=ca, now=now) != check_certificate(brought, ca=ca, now=now):
            return brought
        ends = [x509.load_pem_x509_certificate(chain).not_valid_after_utc for chain in (present, brought)]
    except (OSError, PeerError):
        return brought
    return present if ends[0] > ends[1] else brought


def _earlier_request(home: MemberHome, *, key: str) -> JoinRequest | None:
    try:
        earlier = JoinRequest.model_validate_json(home.request_file.read_bytes())
        asked = x509.load_pem_x509_csr(earlier.csr.encode())
        return earlier if public_pem(asked.public_key()) == key else None
    except (OSError, ValueError):
        return None


def _write(home: MemberHome, contents: Mapping[Path, bytes]) -> None:
    try:
        for file, content in contents.items():
            write_atomically(file, content)
    except OSError as error:
        raise ConfigError(
            f"Cannot write into {home.root}: {error.strerror}", hint="Check the folder."
        ) from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Cannot read {file}: {error.strerror}", hint="Join again: ringfence join INVITATION"
        ) from error
