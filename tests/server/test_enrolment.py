"""Joining by an invitation, over real TLS, on both databases."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from databases import KINDS
from enrolment_harness import Desk, open_desk
from federation_harness import member_command

from ringfence.client.coordinator_connection import open_release_channel
from ringfence.client.identity import install_identity, make_request, read_identity
from ringfence.client.identity_client import IdentityClient
from ringfence.client.member_settings import load_member_settings
from ringfence.model.certificates import identity_of_certificate
from ringfence.model.errors import (
    ConfigError,
    ConnectionFailedError,
    DeadlineError,
    PeerError,
)
from ringfence.model.invitation import Invitation
from ringfence.model.joining import JoinRequest
from ringfence.server.coordinator_database import open_database
from ringfence.server.enrolment import Awaited, Issued
from ringfence.server.issued_certificates import IssuedCertificates
from ringfence.server.ledger_heads import LedgerHeads
from ringfence.server.tables import ledger_heads, metadata
from ringfence.server.trust_bundle import compose_bundle


@pytest.fixture(params=KINDS, scope="module")
def desk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One coordinator a database; each test has names of its own."""
    with open_desk(tmp_path_factory.mktemp(request.param), kind=request.param) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _same_time(desk: Desk) -> Iterator[None]:
    before = desk.now()
    yield
    desk.federation.clock[0] = before


def test_one_string_makes_a_company_a_member(desk: Desk) -> None:
    joined = desk.join(desk.invite("acme"), folder="acme", size_class=64, files=["/data/chat.jsonl"])
    home = desk.folder("acme")
    assert joined.is_founding
    assert home.policy_file.is_file()
    assert load_member_settings(home, environment={}).data.files == ("/data/chat.jsonl",)
    found = read_identity(home)
    assert found.identity.spiffe_id == "spiffe://example/member/acme"
    assert timedelta(days=6, hours=23) < found.expires_at - desk.now() <= timedelta(days=7)
    with open_release_channel(home) as channel:
        seen = IdentityClient(channel).who_am_i()
    assert (seen.member, seen.federation, seen.size_class, seen.is_in_fleet) == ("acme", "example", 64, False)
    assert ("member.invite", "acme") in desk.actions
    assert ("member.admit", "acme") in desk.actions
    assert len(IssuedCertificates(open_database(desk.home)).serials("acme")) == 1


def test_one_key_is_the_certificates_and_the_flower_nodes(desk: Desk) -> None:
    desk.join(desk.invite("one-key"), folder="one-key")
    member = desk.enrolment.members.get("one-key")
    assert member.certificate_public_key == read_identity(desk.folder("one-key")).identity.public_key
    assert member.node_id is None  # the fleet learns the key at its next look at the members


def test_the_same_request_has_the_same_answer_and_another_one_is_refused(desk: Desk) -> None:
    invitation = desk.invite("retry")
    desk.join(invitation, folder="retry")
    first = desk.folder("retry").certificate_file.read_bytes()
    desk.folder("retry").certificate_file.unlink()
    desk.join(invitation, folder="retry")
    assert desk.folder("retry").certificate_file.read_bytes() == first
    with pytest.raises(ConnectionFailedError, match="used already") as caught:
        desk.join(invitation, folder="retry-other")
    assert "new one" in caught.value.hint
    assert not desk.folder("retry-other").settings_file.exists()


def test_a_lost_answer_is_had_by_the_same_command_also_when_the_data_grew_meanwhile(desk: Desk) -> None:
    invitation = desk.invite("grown")
    home = desk.folder("grown")
    request = make_request(home, size_class=64, invitation=invitation.id)
    assert isinstance(desk.enrolment.enrol(invitation.secret, request), Issued)  # and its answer is lost
    joined = desk.join(invitation, folder="grown", size_class=128)
    assert joined.settings.size_class == desk.enrolment.members.get("grown").size_class == 64
    # With the next invitation the company may say what holds now.
    desk.join(desk.invite("grown", again=True), folder="grown", size_class=128)
    assert desk.enrolment.members.get("grown").size_class == 128
    assert load_member_settings(home, environment={}).size_class == 128


def test_an_old_invitation_leaves_a_renewed_certificate_in_place(desk: Desk) -> None:
    invitation = desk.invite("renewed")
    desk.join(invitation, folder="renewed")
    home = desk.folder("renewed")
    first = home.certificate_file.read_bytes()
    desk.pass_time(timedelta(minutes=4))
    renewed = desk.membership.renew(desk.enrolment.members.get("renewed")).certificate.encode()
    again = desk.enrolment.enrol(invitation.secret, make_request(home, invitation=invitation.id))
    assert again == Issued("renewed", renewed.decode())
    desk.join(invitation, folder="renewed")
    assert home.certificate_file.read_bytes() == renewed
    given = install_identity(
        home,
        bundle=compose_bundle(desk.home, settings=desk.federation.settings, now=desk.now()),
        certificate=first.decode(),
        now=desk.now(),
    )
    assert given.member == "renewed"
    assert home.certificate_file.read_bytes() == renewed  # and whatever it gives, the member keeps the newest
    assert first != renewed


def test_an_invitation_of_before_a_new_key_gives_no_certificate_of_the_old_one(desk: Desk) -> None:
    invitation = desk.invite("rekeyed")
    desk.join(invitation, folder="rekeyed")
    old = make_request(desk.folder("rekeyed"), invitation=invitation.id)
    desk.folder("rekeyed").key_file.unlink()
    desk.join(desk.invite("rekeyed", again=True), folder="rekeyed")
    with pytest.raises(ConnectionFailedError, match="holds no more"):
        desk.enrolment.enrol(invitation.secret, old)


def test_a_key_that_was_given_up_does_not_come_back_and_the_invitation_stays_good(desk: Desk) -> None:
    desk.join(desk.invite("back"), folder="back")
    home = desk.folder("back")
    first = home.key_file.read_bytes()
    home.key_file.unlink()
    desk.join(desk.invite("back", again=True), folder="back")
    home.key_file.unlink()
    home.key_file.write_bytes(first)
    home.key_file.chmod(0o600)
    for require_approval in (False, True):
        invitation = desk.invite("back", again=True, require_approval=require_approval)
        with pytest.raises(PeerError, match="gave up this key") as refused:
            desk.join(invitation, folder="back")
        assert "member.key" in refused.value.hint
    home.key_file.unlink()  # as the hint says
    invitation = desk.invite("back", again=True)
    desk.join(invitation, folder="back")
    assert desk.enrolment.members.get("back").status == "active"


def test_an_answer_is_not_repeated_to_a_member_that_was_suspended_meanwhile(desk: Desk) -> None:
    invitation = desk.invite("paused")
    desk.join(invitation, folder="paused")
    desk.membership.suspend("paused")
    with pytest.raises(ConnectionFailedError, match="holds no more"):
        desk.join(invitation, folder="paused")


def expired(desk: Desk) -> Invitation:
    made = desk.invite("late", valid_for=timedelta(minutes=3))
    desk.pass_time(timedelta(minutes=3))
    return made


def withdrawn(desk: Desk) -> Invitation:
    made = desk.invite("twice-invited")
    desk.invite("twice-invited")
    return made


def foreign(desk: Desk) -> Invitation:
    made = desk.invite("foreign")
    return Invitation(made.address, made.bundle_sha256, secret=os.urandom(20))


def for_a_name_that_was_suspended_meanwhile(desk: Desk) -> Invitation:
    desk.join(desk.invite("stopped"), folder="stopped")
    made = desk.invite("stopped", again=True)
    desk.membership.suspend("stopped")
    return made


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (expired, "expired"),
        (withdrawn, "withdrawn"),
        (foreign, "does not know"),
        (for_a_name_that_was_suspended_meanwhile, "holds no more"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_invitation_that_does_not_hold_lets_nobody_in(
    desk: Desk, made: Callable[[Desk], Invitation], words: str
) -> None:
    invitation = made(desk)
    members = desk.enrolment.members.all()
    with pytest.raises(ConnectionFailedError, match=words) as caught:
        desk.join(invitation, folder=f"nobody-{words.split()[0]}")
    assert caught.value.hint
    assert desk.enrolment.members.all() == members


def test_the_secret_is_kept_nowhere(desk: Desk) -> None:
    invitation = desk.invite("secretive")
    desk.join(invitation, folder="secretive")
    with open_database(desk.home).reading() as connection:
        rows = [row for table in metadata.sorted_tables for row in connection.execute(table.select())]
    assert rows
    kept = repr(rows).encode() + b"".join(
        path.read_bytes() for path in desk.home.root.rglob("*") if path.is_file()
    )
    tail = invitation.text().rpartition(".")[2].encode()
    for form in (invitation.secret, invitation.secret.hex().encode(), repr(invitation.secret).encode(), tail):
        assert form not in kept


def with_a_weak_key(request: JoinRequest) -> JoinRequest:
    return request.model_copy(update={"csr": csr_by(ec.generate_private_key(ec.SECP384R1()))})


def with_a_broken_signature(request: JoinRequest) -> JoinRequest:
    content = bytearray(x509.load_pem_x509_csr(request.csr.encode()).public_bytes(serialization.Encoding.DER))
    content[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(content)).public_bytes(serialization.Encoding.PEM)
    return request.model_copy(update={"csr": broken.decode()})


def with_garbage(request: JoinRequest) -> JoinRequest:
    return request.model_copy(update={"csr": "hello"})


def with_an_approval_key_of_another_kind(request: JoinRequest) -> JoinRequest:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return request.model_copy(update={"approval_public_key": pem.decode()})


@pytest.mark.parametrize(
    "spoil",
    [with_a_weak_key, with_a_broken_signature, with_garbage, with_an_approval_key_of_another_kind],
    ids=lambda value: value.__name__,
)
@pytest.mark.parametrize("require_approval", [False, True])
def test_keys_that_cannot_be_certified_leave_the_invitation_as_it_was(
    desk: Desk, spoil: Callable[[JoinRequest], JoinRequest], require_approval: bool
) -> None:
    name = f"spoilt-{spoil.__name__.replace('_', '-')}-{int(require_approval)}"
    invitation = desk.invite(name, require_approval=require_approval)
    request = make_request(desk.folder(name))
    with pytest.raises(PeerError):
        desk.enrolment.enrol(invitation.secret, spoil(request))
    assert desk.enrolment.members.find(name) is None
    assert isinstance(
        desk.enrolment.enrol(invitation.secret, request), Awaited if require_approval else Issued
    )


def test_another_members_key_is_not_certified_and_whose_it_is_is_not_told(desk: Desk) -> None:
    desk.join(desk.invite("owner"), folder="owner")
    invitation = desk.invite("thief")
    request = make_request(desk.folder("thief"))
    owners = make_request(desk.folder("owner"))
    for field in ("csr", "approval_public_key"):
        taken = request.model_copy(update={field: getattr(owners, field)})
        with pytest.raises(PeerError) as caught:
            desk.enrolment.enrol(invitation.secret, taken)
        assert "owner" not in caught.value.message + caught.value.hint
    assert isinstance(desk.enrolment.enrol(invitation.secret, request), Issued)


def test_a_request_that_names_another_member_gets_the_invitations_name(desk: Desk) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.UniformResourceIdentifier("spiffe://example/member/acme")]
    forged = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "acme")]))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    request = make_request(desk.folder("named")).model_copy(update={"csr": forged.decode()})
    issued = desk.enrolment.enrol(desk.invite("named").secret, request)
    assert isinstance(issued, Issued)
    assert identity_of_certificate(issued.certificate.encode()).member == "named"
    certificate = x509.load_pem_x509_certificate(issued.certificate.encode())
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_where_approval_is_asked_for_nothing_is_certified_before(desk: Desk) -> None:
    invitation = desk.invite("patient", require_approval=True)
    told: list[JoinRequest] = []
    with pytest.raises(DeadlineError, match="not approved"):
        desk.join(invitation, folder="patient", on_awaited=told.append)
    assert len(told) == 1
    assert desk.enrolment.members.find("patient") is None
    with pytest.raises(ConnectionFailedError, match="used already"):
        desk.join(invitation, folder="impatient")

    waits: list[float] = []

    def approve_meanwhile(seconds: float) -> None:
        waits.append(seconds)
        desk.enrolment.approve("patient")

    desk.join(invitation, folder="patient", wait_s=60, sleep=approve_meanwhile)
    assert waits
    assert read_identity(desk.folder("patient")).identity.member == "patient"
    assert ("member.ask", "patient") in desk.actions
    with pytest.raises(ConfigError, match="Nobody waits"):
        desk.enrolment.approve("patient")


def test_an_approval_comes_too_late_for_an_expired_invitation(desk: Desk) -> None:
    invitation = desk.invite("slow", require_approval=True, valid_for=timedelta(minutes=2))
    with pytest.raises(DeadlineError):
        desk.join(invitation, folder="slow")
    desk.pass_time(timedelta(minutes=3))
    with pytest.raises(ConfigError, match="expired"):
        desk.enrolment.approve("slow")
    assert desk.enrolment.members.find("slow") is None


@pytest.mark.parametrize("same_key", [True, False])
def test_a_member_that_joins_again_keeps_its_name_its_history_and_its_ledger(
    desk: Desk, same_key: bool
) -> None:
    name = f"again-{int(same_key)}"
    desk.join(desk.invite(name), folder=name)
    registry = desk.enrolment.members
    registry.set_node_id(name, node_id=7)
    before = registry.get(name)
    home = desk.folder(name)
    (home.root / "policy.toml").write_text("# mine\n" + home.policy_file.read_text())
    if not same_key:
        home.key_file.unlink()
    desk.pass_time(timedelta(minutes=1))
    desk.join(desk.invite(name, again=True), folder=name)
    after = registry.get(name)
    assert (after.id, after.admitted_at, after.status) == (name, before.admitted_at, "active")
    assert (after.certificate_public_key == before.certificate_public_key) is same_key
    assert after.node_id == (7 if same_key else None)  # a new key is a new node, which the fleet learns
    assert after.approval_public_key == before.approval_public_key
    assert home.policy_file.read_text().startswith("# mine")
    assert len(IssuedCertificates(open_database(desk.home)).serials(name)) == 2
    assert ("member.admit_again", name) in desk.actions


@pytest.mark.parametrize("same_key", [True, False])
def test_a_ledgers_head_is_kept_whichever_key_the_member_comes_back_with(desk: Desk, same_key: bool) -> None:
    name = f"heads-{int(same_key)}"
    desk.join(desk.invite(name), folder=name)
    with open_database(desk.home).transaction() as connection:
        connection.execute(ledger_heads.insert().values(member=name, signed_head=b"signed"))
    if not same_key:
        desk.folder(name).identity_key_file.unlink()
    desk.join(desk.invite(name, again=True), folder=name)
    assert LedgerHeads(open_database(desk.home)).newest(name) == b"signed"


def test_a_removed_member_may_be_invited_again_and_a_suspended_one_is_resumed_first(desk: Desk) -> None:
    desk.join(desk.invite("gone"), folder="gone")
    with pytest.raises(ConfigError, match="known already"):
        desk.invite("gone")
    desk.membership.suspend("gone", reason="a question is open")
    with pytest.raises(ConfigError, match="suspended") as caught:
        desk.invite("gone", again=True)
    assert "member resume gone" in caught.value.hint
    desk.membership.remove("gone")
    with pytest.raises(ConfigError, match="removed"):
        desk.membership.resume("gone")
    desk.join(desk.invite("gone", again=True), folder="gone")
    assert desk.enrolment.members.get("gone").status == "active"


@pytest.mark.parametrize("name", ["coordinator", "unknown"])
def test_names_that_cannot_be_given_are_not_invited(desk: Desk, name: str) -> None:
    with pytest.raises(ConfigError):
        desk.invite(name, again=name == "unknown")


@pytest.mark.parametrize("valid_for", [timedelta(), timedelta(seconds=-1), timedelta(days=31)])
def test_an_invitation_cannot_hold_for_ever(desk: Desk, valid_for: timedelta) -> None:
    with pytest.raises(ConfigError):
        desk.invite("forever", valid_for=valid_for)


def test_of_two_processes_with_one_invitation_one_wins(desk: Desk, tmp_path: Path) -> None:
    invitation = desk.invite("raced")
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda name: _join_process(tmp_path / name, invitation), ("one", "two")))
    assert sorted(process.returncode for process in done) == [0, 2], [process.stderr for process in done]
    (lost,) = [process for process in done if process.returncode]
    assert "used already" in lost.stderr
    certified = IssuedCertificates(open_database(desk.home)).serials("raced")
    assert len(certified) == 1


@pytest.mark.parametrize("moment", ["before the commit", "after the commit"])
def test_a_kill_leaves_the_invitation_open_or_the_member_admitted(desk: Desk, moment: str) -> None:
    name = f"killed-{moment.split()[0]}"
    invitation = desk.invite(name)
    request = make_request(desk.folder(name))
    child = [sys.executable, "-c", _ENROL_AND_DIE, str(desk.home.root), invitation.secret.hex(), moment]
    done = subprocess.run(
        child, input=request.model_dump_json(), capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = desk.enrolment.invitations.find(invitation.id)
    admitted = desk.enrolment.members.find(name)
    certified = IssuedCertificates(open_database(desk.home)).serials(name)
    if moment == "before the commit":
        assert (kept is not None and kept.state, admitted, certified) == ("open", None, ())
    else:
        assert (kept is not None and kept.state, admitted is not None) == ("used", True)
        assert len(certified) == 1
    desk.join(invitation, folder=name)
    assert len(IssuedCertificates(open_database(desk.home)).serials(name)) == 1
    assert read_identity(desk.folder(name)).identity.member == name


_ENROL_AND_DIE = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from ringfence.model.joining import JoinRequest
from ringfence.server.coordinator_database import open_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import load_coordinator_settings
from ringfence.server.enrolment import AuditEvents, Enrolment

home, secret, moment = CoordinatorHome(Path(sys.argv[1])), bytes.fromhex(sys.argv[2]), sys.argv[3]
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if moment == "before the commit":
    AuditEvents.record = die  # the last write of the transaction
enrolment = Enrolment(
    home, settings=load_coordinator_settings(home), database=open_database(home), now=lambda: datetime.now(UTC)
)
enrolment.enrol(secret, JoinRequest.model_validate_json(sys.stdin.read()))
die()
"""


def csr_by(key: ec.EllipticCurvePrivateKey) -> str:
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def _join_process(home: Path, invitation: Invitation) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        member_command("join", invitation.text(), "--home", home),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
