"""What the attacks share: one real fleet service with three admitted members, and proof that the honest one works."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from federation_harness import Fleet, Processes, make_federation


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    root = tmp_path_factory.mktemp("fleet")
    federation = make_federation(root)
    with Processes(root / "logs") as processes:
        processes.start_fleet(federation)
        yield Fleet(federation, processes, federation.register())


@pytest.fixture
def honest(fleet: Fleet) -> Callable[[], None]:
    """Beta connects, asks for work and leaves, as if nothing had happened."""

    def works() -> None:
        with fleet.connection("beta") as connection:
            assert connection.node_id == fleet.nodes["beta"]
            assert connection.receive() is None

    return works
