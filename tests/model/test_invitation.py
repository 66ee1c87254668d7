"""The one string by which a company joins: read back as it was made, and told apart when it is cut, mistyped or foreign."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringfence.model.errors import ConfigError, PeerError
from ringfence.model.invitation import PREFIX, Invitation, parse_invitation
from ringfence.model.joining import TrustBundle, bundle_digest, read_bundle

BUSY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
MADE = Invitation("coordinator.example.org:9444", "ab" * 32, bytes(range(20)))


@settings(BUSY)
@given(
    host=st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,50}[a-z0-9])?", fullmatch=True),
    port=st.integers(1, 65535),
    secret=st.binary(min_size=20, max_size=20),
)
def test_an_invitation_reads_back_as_it_was_made(host: str, port: int, secret: bytes) -> None:
    made = Invitation(f"{host}:{port}", secrets.token_hex(32), secret)
    assert parse_invitation(made.text()) == made


def test_it_is_one_line_that_a_mail_program_may_break() -> None:
    text = MADE.text()
    assert len(text) < 200
    assert text.startswith("rfj1.")
    assert parse_invitation(f"  {text[:60]}\r\n {text[60:]}\n") == MADE


@pytest.mark.parametrize("length", range(len(MADE.text())))
def test_a_string_that_was_cut_is_said_to_be(length: int) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_invitation(MADE.text()[:length])
    assert caught.value.hint
    if length > len(PREFIX):
        assert "cut short" in caught.value.message


@settings(BUSY, max_examples=300)
@given(place=st.integers(len(PREFIX) + 1, len(MADE.text()) - 1), letter=st.sampled_from("abzAZ019-_."))
def test_one_wrong_letter_is_found(place: int, letter: str) -> None:
    text = MADE.text()
    changed = text[:place] + letter + text[place + 1 :]
    if changed != text:
        with pytest.raises(ConfigError):
            parse_invitation(changed)


@settings(BUSY)
@given(text=st.text(max_size=300))
def test_any_other_text_is_refused_in_our_words(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_invitation(text)


def test_an_invitation_of_a_later_version_is_told_apart() -> None:
    with pytest.raises(ConfigError, match="another version"):
        parse_invitation(MADE.text().replace("rfj1.", "rfj2.", 1))


def test_what_is_kept_of_the_secret_does_not_tell_it() -> None:
    other = Invitation(MADE.address, MADE.bundle_sha256, bytes(20))
    assert MADE.secret not in MADE.secret_hash()
    assert MADE.secret_hash() != other.secret_hash()
    assert MADE.id != other.id
    assert MADE.id not in MADE.secret_hash().hex()


BUNDLE = TrustBundle(
    federation="example",
    demonstration=True,
    fleet_address="127.0.0.1:1",
    release_address="127.0.0.1:2",
    enrolment_address="127.0.0.1:3",
    ca="pem",
    trust_root=None,
    plan_public_key="A" * 44,
)


def test_a_bundle_is_believed_by_its_hash_alone() -> None:
    content = BUNDLE.content()
    assert read_bundle(content, sha256=bundle_digest(content)) == BUNDLE
    for changed in (content + b" ", content.replace(b"127.0.0.1:1", b"127.0.0.1:9"), b"", b"{}"):
        with pytest.raises(PeerError, match="not the coordinator"):
            read_bundle(changed, sha256=bundle_digest(content))


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", BUNDLE.content().replace(b'"ca"', b'"cb"')])
def test_a_bundle_in_another_form_is_refused_even_with_the_right_hash(content: bytes) -> None:
    with pytest.raises(PeerError, match="agreed form"):
        read_bundle(content, sha256=bundle_digest(content))
