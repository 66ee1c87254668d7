"""A member's identity: keys made here, a certificate for them, and what it trusts because of its welcome.

The key of mutual TLS serves the training host. The approval key is another one on purpose: it countersigns releases and
belongs to a person.
"""

from __future__ import annotations

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
from ringfence.model.joining import JoinRequest, WelcomeBundle
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
_ASK_AGAIN = "Ask the coordinator for a new welcome."


@dataclass(frozen=True, slots=True)
class InstalledIdentity:
    """Who this member is, as its own files say.

    Attributes:
        identity: federation, member and public key of the certificate.
        expires_at: when the certificate ends, UTC.
    """

    identity: MemberIdentity
    expires_at: datetime


def create_identity(
    home: MemberHome, *, member: str, request_file: Path, size_class: int = DEFAULT_SIZE_CLASS
) -> JoinRequest:
    """Make this company's keys, and write the request that the coordinator answers with a welcome.

    Keys that are there already are kept, so that a request can be written again.

    Args:
        home: the member's folder; made if missing.
        member: the identifier that the company would like.
        request_file: where the request is written; it holds nothing secret.
        size_class: power of two near the number of conversations; it becomes public.

    Raises:
        ConfigError: the name or size class is not in the agreed form, the folder or the file cannot be written, or a key is damaged. The operator's to mend.
    """
    try:
        # Before any key is made, so that a slip in the name leaves nothing behind.
        wished = JoinRequest(
            member=member, csr="-", approval_public_key="-", identity_public_key="-", size_class=size_class
        )
    except ValidationError as error:
        raise ConfigError(
            f"This cannot be asked for: {describe(error)}", hint="Correct what is named."
        ) from error
    home.create()
    key = load_transport_key(home.key_file) if home.key_file.exists() else make_transport_key(home.key_file)
    approval = (
        load_signing_key(home.approval_key_file)
        if home.approval_key_file.exists()
        else make_signing_key(home.approval_key_file)
    )
    own = (
        load_signing_key(home.identity_key_file)
        if home.identity_key_file.exists()
        else make_signing_key(home.identity_key_file)
    )
    # No name in it: the coordinator decides the name, and ignores what a request says.
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    request = wished.model_copy(
        update={
            "csr": csr.public_bytes(serialization.Encoding.PEM).decode("ascii"),
            "approval_public_key": public_pem(approval.public_key()),
            "identity_public_key": public_pem(own.public_key()),
        }
    )
    request.save(request_file)
    return request


def accept_welcome(home: MemberHome, *, welcome: WelcomeBundle, now: datetime) -> MemberSettings:
    """Check a welcome, and install what it brings: certificate, CA, pinned root of trust, settings; and a first policy.

    A later welcome renews the certificate. It may not move the member to another federation or replace the pinned root.

    Args:
        home: the member's folder, with the keys made by `create_identity`.
        welcome: what the coordinator sent.
        now: the present, UTC.

    Raises:
        ConfigError: the keys are missing, or this member belongs to another federation. The operator's to mend.
        PeerError: the certificate is not for this key, this name or this federation, or its CA did not sign it.
        ReleaseError: the root of trust is not signed by enough of its own keys. The coordinator's fault.
    """
    key = load_transport_key(home.key_file)
    identity = check_certificate(welcome.certificate.encode(), ca=welcome.ca.encode(), now=now)
    if identity.public_key != public_pem(key.public_key()):
        raise PeerError("The welcome is for another key than this member's.", hint=_ASK_AGAIN)
    if (identity.federation, identity.member) != (welcome.federation, welcome.member):
        raise PeerError("The welcome and its certificate name different members.", hint=_ASK_AGAIN)
    root = welcome.trust_root_bytes()
    check_first_root(root)
    data = DataSettings()
    if home.settings_file.exists():
        present = load_member_settings(home, environment={})
        data = present.data
        if present.federation != welcome.federation:
            raise ConfigError(
                f"This folder belongs to the federation {present.federation}.", hint="Choose another --home."
            )
    if home.root_file.exists() and home.root_file.read_bytes() != root:
        raise PeerError(
            "The welcome brings another root of trust than the one that is pinned here.",
            hint="Ask the coordinator by another way, for instance the telephone, before anything else.",
        )
    settings = MemberSettings(
        federation=welcome.federation,
        member=welcome.member,
        fleet_address=welcome.fleet_address,
        release_address=welcome.release_address,
        demonstration=welcome.demonstration,
        plan_public_key=welcome.plan_public_key,
        size_class=welcome.size_class,
        data=data,
    )
    try:
        write_atomically(home.ca_file, welcome.ca.encode())
        write_atomically(home.root_file, root)
        write_atomically(home.certificate_file, welcome.certificate.encode())
    except OSError as error:
        raise ConfigError(
            f"Cannot write into {home.root}: {error.strerror}", hint="Check the folder."
        ) from error
    # A company that wrote its policy before it joined keeps it.
    ensure_policy(home, federation=welcome.federation, demonstration=welcome.demonstration)
    # Last: settings that exist say that the rest is there.
    save_member_settings(home, settings=settings)
    return settings


def read_identity(home: MemberHome) -> InstalledIdentity:
    """Return who this member is, from its certificate.

    Raises:
        ConfigError: no welcome was accepted yet, or the certificate cannot be read. The operator's to mend.
    """
    try:
        chain = home.certificate_file.read_bytes()
        expires_at = x509.load_pem_x509_certificate(chain).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise ConfigError(
            "This member has no certificate yet.", hint="Accept the welcome: ringfence identity accept FILE"
        ) from error
    return InstalledIdentity(identity_of_certificate(chain), expires_at)


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
        store = Store(x509.load_pem_x509_certificates(ca))
        PolicyBuilder().store(store).time(now).build_client_verifier().verify(leaf, intermediates)
    except (ValueError, VerificationError) as error:
        raise PeerError(
            "The certificate was not issued by the federation's CA, or is not valid now.", hint=_ASK_AGAIN
        ) from error
    return identity_of_certificate(chain)
