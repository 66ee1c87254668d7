"""On which device a member trains: the CPU unless it says otherwise, and the same model on any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from federation_harness import make_federation, make_plan
from pydantic import ValidationError

from ringfence.client import local_training
from ringfence.client.local_training import LocalTrainer
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import load_member_settings, save_member_settings
from ringfence.client.training_device import Device, training_device
from ringfence.model.errors import ConfigError
from ringfence.model.plan import PrivacyTerms
from ringfence.model.round_messages import TrainRequest, TrainUpdate
from ringfence.privacy import secure_noise, torch_sum
from ringfence.server.signing_keys import load_coordinator_key


class Repeatable:
    """Words from a seed, so that two trainings have one noise."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng(7)

    def words(self, count: int) -> np.ndarray:
        return self._generator.integers(0, 2**64, size=count, dtype=np.uint64)


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemberHome, TrainRequest]:
    federation = make_federation(tmp_path_factory.mktemp("device"), members=("acme",), conversations=60)
    plan = make_plan(privacy=PrivacyTerms(contribution_bound=1, noise_multiplier=5.0)).canonical_json()
    signature = load_coordinator_key(federation.coordinator, name="plan").sign(plan)
    model = 0.1 * np.random.default_rng(3).normal(size=109)
    return federation.members["acme"], TrainRequest("run", plan, signature, 1, 1, model)


def set_device(home: MemberHome, device: Device) -> None:
    settings = load_member_settings(home).model_copy(update={"device": device})
    save_member_settings(home, settings=settings)


def update_of(home: MemberHome, request: TrainRequest) -> np.ndarray:
    made = LocalTrainer(home, has_ledger=False).answer(request).update
    assert isinstance(made, TrainUpdate)
    return made.update


def test_training_by_torch_gives_what_training_by_numpy_gives(
    member: tuple[MemberHome, TrainRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, request = member
    monkeypatch.setattr(secure_noise, "Csprng", Repeatable)
    set_device(home, "cpu")
    by_numpy = update_of(home, request)

    used: list[str] = []
    on_device = torch_sum.DeviceHeadGradients.clipped_sum

    def watched(source: torch_sum.DeviceHeadGradients, *values: object, **named: object) -> np.ndarray:
        used.append(str(source._device))
        return on_device(source, *values, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(torch_sum.DeviceHeadGradients, "clipped_sum", watched)
    # Torch's own name of the CPU stands for a GPU that it has: everything but the device is the same.
    monkeypatch.setattr(local_training, "training_device", lambda chosen: "cpu:0")
    by_torch = update_of(home, request)
    assert set(used) == {"cpu:0"}
    assert np.abs(by_numpy).max() > 1e-3
    # A value may fall on the other side of a step of the grid, 2^-20 of the clip norm, before it is divided.
    np.testing.assert_allclose(by_torch, by_numpy, rtol=0, atol=1e-6)


def test_what_the_member_chose_is_what_the_step_is_given(
    member: tuple[MemberHome, TrainRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, request = member
    asked: list[str] = []
    monkeypatch.setattr(local_training, "training_device", lambda chosen: (asked.append(chosen), "cpu")[1])
    for device in ("cpu", "auto", "cuda"):
        set_device(home, device)  # type: ignore[arg-type]
        update_of(home, request)
    assert asked == ["cpu", "auto", "cuda"]


def test_the_cpu_is_the_default_and_asks_nothing_of_torch() -> None:
    def unwanted() -> bool:
        raise AssertionError("torch was asked")

    assert training_device("cpu", available=unwanted) == "cpu"


@pytest.mark.parametrize(
    ("chosen", "available", "expected"),
    [("cuda", True, "cuda"), ("auto", True, "cuda"), ("auto", False, "cpu")],
)
def test_a_gpu_is_used_where_it_was_chosen_and_is_there(
    chosen: Device, available: bool, expected: str
) -> None:
    assert training_device(chosen, available=lambda: available) == expected


def test_a_gpu_that_is_not_there_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match="no GPU") as caught:
        training_device("cuda", available=lambda: False)
    assert 'device = "cpu"' in caught.value.hint


def test_the_setting_is_one_of_three_and_the_cpu_unless_it_is_given(
    member: tuple[MemberHome, TrainRequest], tmp_path: Path
) -> None:
    settings = load_member_settings(member[0])
    given = settings.model_dump(exclude={"device"})
    assert type(settings)(**given).device == "cpu"
    with pytest.raises(ValidationError):
        type(settings)(**given, device="gpu")
