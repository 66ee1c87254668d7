"""Where the coordinator keeps what is its own: one folder, readable by its owner alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ringfence.model.errors import ConfigError

HOME_VARIABLE = "RINGFENCE_COORDINATOR_HOME"


@dataclass(frozen=True, slots=True)
class CoordinatorHome:
    """The paths inside the coordinator's folder.

    Attributes:
        root: the folder itself.
    """

    root: Path

    @classmethod
    def locate(cls, given: Path | None) -> CoordinatorHome:
        """Return the home that was given, else ``$RINGFENCE_COORDINATOR_HOME``, else ``./coordinator``."""
        if given is not None:
            return cls(given.expanduser().absolute())
        return cls(Path(os.environ.get(HOME_VARIABLE, "coordinator")).expanduser().absolute())

    def create(self) -> CoordinatorHome:
        """Make the folders, with mode 0700, and return self.

        Raises:
            ConfigError: a folder cannot be made. The operator's to mend.
        """
        folders = (
            self.root,
            self.pki,
            self.artifacts,
            self.repository,
            self.keys,
            self.drafts,
            self.flower,
            self.runs,
        )
        try:
            for folder in folders:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"Cannot make {error.filename}: {error.strerror}", hint="Choose another folder with --home."
            ) from error
        return self

    @property
    def settings_file(self) -> Path:
        """``coordinator.toml``: federation and addresses."""
        return self.root / "coordinator.toml"

    @property
    def pki(self) -> Path:
        """Folder of the certificate authority and of the listeners' certificates."""
        return self.root / "pki"

    @property
    def root_key_file(self) -> Path:
        """Private key of the root of all certificates, from ``init`` until somebody moves it offline."""
        return self.pki / "root.key"

    @property
    def ca_file(self) -> Path:
        """The root's certificate, PEM: what members pin."""
        return self.pki / "ca.pem"

    @property
    def intermediate_file(self) -> Path:
        """Private key and certificate of the online intermediate, which signs certificates; PEM, mode 0600."""
        return self.pki / "intermediate.pem"

    @property
    def bundles(self) -> Path:
        """What invitations pin, one file by hash; public."""
        return self.pki / "bundles"

    @property
    def server_key_file(self) -> Path:
        """Private key of the listeners."""
        return self.pki / "server.key"

    @property
    def server_certificate_file(self) -> Path:
        """Certificate chain of `server_key_file`."""
        return self.pki / "server.pem"

    @property
    def database_file(self) -> Path:
        """The coordinator's own database, unless its settings point at another; apart from Flower's."""
        return self.root / "coordinator.db"

    @property
    def artifacts(self) -> Path:
        """Files that never change, under their SHA-256, unless the settings point at an object store."""
        return self.root / "artifacts"

    @property
    def repository(self) -> Path:
        """The TUF repository: ``metadata/`` and ``targets/``."""
        return self.root / "repository"

    @property
    def keys(self) -> Path:
        """Signing keys of the coordinator: governance, candidate, snapshot, timestamp, plan."""
        return self.root / "keys"

    @property
    def drafts(self) -> Path:
        """Metadata that awaits signatures."""
        return self.root / "drafts"

    @property
    def flower(self) -> Path:
        """State of Flower's SuperLink, its database and tokens."""
        return self.root / "flower"

    @property
    def admin_socket(self) -> Path:
        """Where the serving coordinator takes commands of its own account."""
        return self.root / "admin.sock"

    @property
    def runs(self) -> Path:
        """One folder a run that was built into a release candidate."""
        return self.root / "runs"
