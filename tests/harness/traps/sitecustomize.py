"""Holds a process of the product at a named place until a test lets it go, or kills it there; or shifts its clock.

On the PYTHONPATH of child processes only; Python imports it by its name as it starts. The product knows nothing of it: a
function is wrapped as its module is imported. `trap_harness.py` has the other side, and says how the two talk.
"""

from __future__ import annotations

import datetime
import functools
import importlib.util
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

PLACES = {
    # name: module, function in it, "before" or "after" it
    "before-pull": ("ringfence.client.flower_adapter", "FleetConnection.receive", "before"),
    "in-training": ("ringfence.privacy.training", "train_privately", "before"),
    "after-charge": ("ringfence.client.member_ledger", "MemberLedger.charge", "after"),
    "before-upload": ("ringfence.client.flower_adapter", "FleetConnection.answer", "before"),
    "in-upload": ("flwr.supernode.fleet_http_client", "FleetHttpClient.PushObject", "before"),
    "in-aggregation": ("ringfence.server.round_loop", "average_updates", "before"),
    "before-checkpoint": ("ringfence.server.run_store", "Run.save_round", "before"),
    "in-checkpoint": ("ringfence.server.run_store", "_insert_checkpoint", "after"),
    "after-checkpoint": ("ringfence.server.run_store", "Run.save_round", "after"),
}
_LONGEST_S = 900.0  # longer than any test waits for anything: who is let go early proves nothing


def _hold(folder: Path, place: str) -> None:
    for armed in [
        name for name in os.listdir(folder) if name.startswith(f"{place}.") and name.endswith(".armed")
    ]:
        caught = folder / armed.replace(".armed", ".caught")
        try:
            os.rename(folder / armed, caught)  # one process, and one thread of it, is caught
        except FileNotFoundError:
            continue
        caught.write_text(str(os.getpid()))
        caught.rename(caught.with_suffix(".holding"))
        deadline = time.monotonic() + _LONGEST_S
        while not caught.with_suffix(".released").exists() and time.monotonic() < deadline:
            time.sleep(0.01)


def _wrap(module: object, *, place: str, folder: Path) -> None:
    _, path, when = PLACES[place]
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, module)
    original = getattr(owner, name)

    @functools.wraps(original)
    def held(*arguments, **named):
        if when == "before":
            _hold(folder, place)
        result = original(*arguments, **named)
        if when == "after":
            _hold(folder, place)
        return result

    setattr(owner, name, held)


def _shift(date: object, seconds: int) -> None:
    """Have a member's clock go wrong: for its ledger and its policy, and for what it signs towards Flower."""
    right = time.time
    time.time = lambda: right() + seconds
    date.now = lambda: datetime.datetime.fromtimestamp(time.time(), tz=datetime.UTC)


class _Patcher:
    """Finds the watched modules like anybody else would, and patches them once they are loaded."""

    def __init__(self, patches: Mapping[str, list[Callable[[object], None]]]) -> None:
        self._patches = patches
        self._finding: set[str] = set()

    def find_spec(self, name, path=None, target=None):
        if name not in self._patches or name in self._finding:
            return None
        self._finding.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._finding.discard(name)
        load = spec.loader.exec_module

        def load_and_patch(module):
            load(module)
            for patch in self._patches[name]:
                patch(module)

        spec.loader.exec_module = load_and_patch
        return spec


def _asked_for() -> Mapping[str, list[Callable[[object], None]]]:
    patches = defaultdict(list)
    if folder := os.environ.get("RINGFENCE_TEST_TRAPS"):
        for place, (module, *_) in PLACES.items():
            patches[module].append(functools.partial(_wrap, place=place, folder=Path(folder)))
    if skew := os.environ.get("RINGFENCE_TEST_CLOCK_SKEW_S"):
        patches["flwr.supercore.date"].append(functools.partial(_shift, seconds=int(skew)))
    return patches


sys.meta_path.insert(0, _Patcher(_asked_for()))
