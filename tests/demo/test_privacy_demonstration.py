"""The demonstration for the documentation shows what it says: attacks that succeed without protection and fail with it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "privacy_demonstration.py"


@pytest.fixture(scope="module")
def demonstration() -> ModuleType:
    spec = importlib.util.spec_from_file_location("privacy_demonstration", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.STEPS = 20
    module.torch.set_num_threads(1)
    return module


@pytest.fixture(scope="module")
def member(demonstration: ModuleType):  # type: ignore[no-untyped-def]
    return demonstration.make_member(conversations=60, candidates=60)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_without_noise_every_canary_and_every_person_is_found(demonstration, member, clip_norm) -> None:
    open_door = demonstration.Protection("no noise", clip_norm)
    found = demonstration.attack(member, open_door, trials=3, canaries=256)
    assert (found.exposure_bits, found.canary_found) == (8.0, 1.0)
    assert (found.found_from_one_step, found.found_from_all_steps) == (1.0, 1.0)
    assert found.inversion_cosine > 0.9


def test_with_noise_the_attacks_come_to_little(demonstration, member) -> None:
    # At epsilon 2 one canary of 256 is found in a few trials of a hundred: six of six is below one in ten million.
    *_, protected = demonstration.protections([2.0])
    found = demonstration.attack(member, protected, trials=6, canaries=256)
    assert found.exposure_bits < 8.0
    assert found.canary_found < 1.0
    assert found.found_from_all_steps < 1.0
    assert abs(found.inversion_cosine) < 0.5
