"""Who shows an invitation and is not let in leaves a trace, bounded and without what was sent; on both databases."""

from __future__ import annotations

import os
from collections.abc import Iterator

import grpc
import pytest
from databases import KINDS
from enrolment_harness import Desk, open_desk

from ringfence.client.identity import make_request
from ringfence.model.errors import (
    ConnectionFailedError,
    PeerError,
)
from ringfence.model.key_files import key_fingerprint, load_transport_key, public_pem
from ringfence.model.wire import enrollment_service_pb2 as wire
from ringfence.model.wire.enrollment_service_pb2_grpc import EnrollmentServiceStub
from ringfence.server.audit_events import AuditEvents
from ringfence.server.coordinator_database import open_database
from ringfence.server.enrolment import MOST_REFUSALS_NOTED, Issued


@pytest.fixture(params=KINDS, scope="module")
def desk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with open_desk(tmp_path_factory.mktemp(request.param), kind=request.param) as opened:
        yield opened


def refusals(desk: Desk, member: str) -> list[str]:
    events = AuditEvents(open_database(desk.home)).all()
    return [event.detail for event in events if (event.action, event.subject) == ("member.refused", member)]


def test_an_invitation_that_was_stolen_leaves_a_trace_with_the_key_that_came_with_it(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    invitation = desk.invite("stolen")
    desk.join(invitation, folder="stolen-by-somebody")
    assert refusals(desk, "stolen") == []
    with pytest.raises(ConnectionFailedError, match="used already"):
        desk.join(invitation, folder="stolen")
    key = key_fingerprint(public_pem(load_transport_key(desk.folder("stolen").key_file).public_key()))
    (detail,) = refusals(desk, "stolen")
    assert "used already" in detail
    assert key in detail
    assert key in caplog.text


def test_traces_of_one_invitation_are_few_however_often_it_is_shown_and_a_wrong_secret_leaves_none(
    desk: Desk,
) -> None:
    invitation = desk.invite("filled")
    desk.invite("filled")  # withdraws it
    request = make_request(desk.folder("filled"))
    for secret in [invitation.secret] * (MOST_REFUSALS_NOTED + 3) + [os.urandom(20)] * 2:
        with pytest.raises(ConnectionFailedError):
            desk.enrolment.enrol(secret, request)
    assert len(refusals(desk, "filled")) == MOST_REFUSALS_NOTED


def test_an_invitation_that_comes_with_keys_that_are_refused_leaves_a_trace_as_well(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.join(desk.invite("keyholder"), folder="keyholder")
    owners = make_request(desk.folder("keyholder"))
    invitation = desk.invite("borrower")
    own = make_request(desk.folder("borrower"))
    for request, word in (
        (owners, "another member's"),
        (own.model_copy(update={"csr": "hello"}), "that cannot be read"),
    ):
        before = len(refusals(desk, "borrower"))
        with pytest.raises(PeerError):
            desk.enrolment.enrol(invitation.secret, request)
        assert len(refusals(desk, "borrower")) == before + 1
        assert word in refusals(desk, "borrower")[-1]
        assert word in caplog.text
    assert key_fingerprint(desk.enrolment.members.get("keyholder").certificate_public_key) in caplog.text
    for _ in range(MOST_REFUSALS_NOTED + 3):
        with pytest.raises(PeerError):
            desk.enrolment.enrol(invitation.secret, owners)
    assert len(refusals(desk, "borrower")) == MOST_REFUSALS_NOTED
    assert isinstance(desk.enrolment.enrol(invitation.secret, own), Issued), "the invitation stays good"


def test_an_invitation_that_comes_with_what_is_no_request_leaves_a_trace_without_what_was_sent(
    desk: Desk,
) -> None:
    invitation = desk.invite("formless")
    home = desk.folder("formless")
    asked = make_request(home)
    credentials = grpc.ssl_channel_credentials(desk.home.ca_file.read_bytes())

    def enrol(secret: bytes) -> None:
        with grpc.secure_channel(desk.running.enrolment_address, credentials) as channel:
            stub = EnrollmentServiceStub(channel)
            with pytest.raises(grpc.RpcError) as refused:
                stub.Enroll(
                    wire.EnrollRequest(
                        secret=secret,
                        csr=asked.csr,
                        approval_public_key="planted-words" * 2000,
                        identity_public_key=asked.identity_public_key,
                        size_class=3,
                    ),
                    timeout=60,
                )
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT

    enrol(os.urandom(20))
    assert refusals(desk, "formless") == []
    enrol(invitation.secret)
    (detail,) = refusals(desk, "formless")
    assert "not in the agreed form" in detail
    assert key_fingerprint(public_pem(load_transport_key(home.key_file).public_key())) in detail
    assert "planted-words" not in detail
