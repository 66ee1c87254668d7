"""Where a member keeps what is its own: one folder, readable by its owner alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ringfence.model.errors import ConfigError

HOME_VARIABLE = "RINGFENCE_HOME"


@dataclass(frozen=True, slots=True)
class MemberHome:
    """The paths inside a member's folder.

    Attributes:
        root: the folder itself.
    """

    root: Path

    @classmethod
    def locate(cls, given: Path | None) -> MemberHome:
        """Return the home that was given, else ``$RINGFENCE_HOME``, else ``~/.ringfence``."""
        if given is not None:
            return cls(given.expanduser().absolute())
        return cls(Path(os.environ.get(HOME_VARIABLE, "~/.ringfence")).expanduser().absolute())

    def create(self) -> MemberHome:
        """Make the folders, with mode 0700, and return self.

        Raises:
            ConfigError: a folder cannot be made. The operator's to mend.
        """
        try:
            for folder in (
                self.root,
                self.identity,
                self.approval,
                self.trust,
                self.releases,
                self.cache,
                self.agent,
            ):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"Cannot make {error.filename}: {error.strerror}", hint="Choose another folder with --home."
            ) from error
        return self

    @property
    def settings_file(self) -> Path:
        """``member.toml``: federation, addresses, data."""
        return self.root / "member.toml"

    @property
    def policy_file(self) -> Path:
        """``policy.toml``: what this member agrees to, and at most at which price."""
        return self.root / "policy.toml"

    @property
    def identity(self) -> Path:
        """Folder of the private key, its certificate chain and the federation's CA."""
        return self.root / "identity"

    @property
    def key_file(self) -> Path:
        """Private key of mutual TLS, which is also the Flower node key (EC P-256, PKCS 8 PEM, mode 0600)."""
        return self.identity / "member.key"

    @property
    def identity_key_file(self) -> Path:
        """Ed25519 private key with which the agent signs what only this member may say, PKCS 8 PEM, mode 0600."""
        return self.identity / "identity.key"

    @property
    def request_file(self) -> Path:
        """What this company asked to be admitted with; public keys only."""
        return self.identity / "request.json"

    @property
    def request_invitation_file(self) -> Path:
        """With which invitation `request_file` was sent last; an identifier that tells nothing about its secret."""
        return self.identity / "request.invitation"

    @property
    def certificate_file(self) -> Path:
        """Certificate chain of `key_file`, PEM."""
        return self.identity / "member.pem"

    @property
    def ca_file(self) -> Path:
        """The federation's CA certificates, PEM."""
        return self.identity / "ca.pem"

    @property
    def approval(self) -> Path:
        """Folder of the approval key, which countersigns releases; it belongs to a person."""
        return self.root / "approval"

    @property
    def approval_key_file(self) -> Path:
        """Ed25519 private key, PKCS 8 PEM, mode 0600."""
        return self.approval / "approval.key"

    @property
    def trust(self) -> Path:
        """Folder of the pinned TUF root."""
        return self.root / "trust"

    @property
    def root_file(self) -> Path:
        """The TUF root that this member's invitation pinned, or that it agreed on as a founding member."""
        return self.trust / "root.json"

    @property
    def agreed_roots_file(self) -> Path:
        """Hashes of the first roots of trust that this member signed, while none is pinned yet."""
        return self.trust / "agreed-roots.json"

    @property
    def releases(self) -> Path:
        """Folder of TUF metadata, installed releases and the link to the one in use."""
        return self.root / "releases"

    @property
    def cache(self) -> Path:
        """Folder of feature rows: personal data, never backed up."""
        return self.root / "cache"

    @property
    def snapshots(self) -> Path:
        """Folder of snapshots between their writing and their opening; empty but for moments."""
        return self.root / "snapshots"

    @property
    def evaluations(self) -> Path:
        """Folder of evaluations on the member's own conversations: figures without noise, which stay here."""
        return self.root / "evaluations"

    @property
    def calibration_file(self) -> Path:
        """The member's own calibration of a release, fitted on its own labels; it stays here."""
        return self.root / "calibration.json"

    @property
    def personal_head_file(self) -> Path:
        """The member's own head, trained on from a release out of its own budget; it stays here."""
        return self.root / "personal-head.json"

    @property
    def review_queue_file(self) -> Path:
        """How many conversations scored how high on which day, and the threshold of the review queue; it stays here."""
        return self.root / "review-queue.json"

    @property
    def contribution_key_file(self) -> Path:
        """Secret that orders conversations for the contribution bound and names people in manifests, mode 0600."""
        return self.root / "contribution.key"

    @property
    def exclusions_file(self) -> Path:
        """Whom the member forgot, as salted hashes."""
        return self.root / "exclusions.json"

    @property
    def ledger_file(self) -> Path:
        """The privacy ledger of the member's data, in a folder of its own."""
        return self.root / "ledger" / "ledger.db"

    @property
    def ledger_anchor_file(self) -> Path:
        """Second place of the ledger's newest head, where the policy names no better one."""
        return self.root / "anchor" / "ledger.head"

    @property
    def agent(self) -> Path:
        """Folder of the agent's own state."""
        return self.root / "agent"
