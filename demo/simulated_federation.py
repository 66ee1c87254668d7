"""A whole federation in one folder: a coordinator with a signed plan, and members with their own invented conversations.

The folders are those of a real federation, less what only a network needs: no certificates, no node keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import DataSettings, MemberSettings, save_member_settings
from ringfence.demo.company_data import write_jsonl
from ringfence.model.bounds import RECOMMENDED_BOUNDS
from ringfence.model.errors import ConfigError
from ringfence.model.feature_set import FeatureSet
from ringfence.model.plan import RECOMMENDED_WEIGHT_DECAY, CohortTerms, Plan, PrivacyTerms, TrainingTerms
from ringfence.model.simulation import CompanyData
from ringfence.privacy.accounting import LINEAR_HEAD_PARAMETERS, PLATFORMS
from ringfence.privacy.grid import floating_point_delta
from ringfence.privacy.planning import MOST_NOISE, noise_multiplier_for
from ringfence.privacy.training import nearest_size_class
from ringfence.server.coordinator_database import create_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings, save_coordinator_settings
from ringfence.server.run_launch import Launcher
from ringfence.server.run_store import Run
from ringfence.server.signing_keys import create_signing_keys, plan_public_key

FEDERATION = "simulation"
CONVERSATIONS_FILE = "conversations.jsonl"
_MINIMUM_SHARE = 2 / 3
# Members are in this process or beside it: whoever has not answered after this long never will.
_ROUND_DEADLINE_S = 600.0


@dataclass(frozen=True, slots=True)
class SimulatedFederation:
    """The folders of a simulated federation.

    Attributes:
        plan: what is trained.
        run: the run at the coordinator, with the signed plan.
        members: the folder of each member, by name, in a fixed order.
        size_classes: the public size class of each member.
    """

    plan: Plan
    run: Run
    members: Mapping[str, MemberHome]
    size_classes: Mapping[str, int]


def simulation_plan(*, members: int, rounds: int, epsilon: float, feature_set: FeatureSet) -> Plan:
    """Return the default recipe with as much noise as a person's epsilon asks for.

    Args:
        members: how many take part; a round needs two thirds of them.
        rounds: aggregations.
        epsilon: for a person with conversations at one member, over the whole run; never exceeded.
        feature_set: the frozen public features.

    Raises:
        ConfigError: no noise within a plan's range keeps this epsilon. The caller's fault.
    """
    training = TrainingTerms(
        rounds=rounds,
        feature_set=feature_set.name,
        feature_set_sha256=feature_set.fingerprint,
        weight_decay=RECOMMENDED_WEIGHT_DECAY,
    )
    steps = training.rounds * training.local_steps
    promised = PrivacyTerms(bounds=RECOMMENDED_BOUNDS, noise_multiplier=1.0)
    tails = max(PLATFORMS) * floating_point_delta(dimension=LINEAR_HEAD_PARAMETERS, steps=steps)
    noise = noise_multiplier_for(
        epsilon,
        contribution_bound=promised.contribution_bound,
        sample_rate=promised.sample_rate,
        steps=steps,
        delta=promised.delta - tails,
    )
    noise = math.ceil(noise * 1e4) / 1e4  # upwards, so that epsilon only falls
    if noise > MOST_NOISE:
        raise ConfigError(
            "So little epsilon over so many rounds asks for more noise than a plan may have.",
            hint="Raise --epsilon or lower --rounds.",
        )
    return Plan(
        name=FEDERATION,
        federation=FEDERATION,
        demonstration=True,
        training=training,
        privacy=promised.model_copy(update={"noise_multiplier": noise}),
        cohort=CohortTerms(
            minimum=max(1, math.floor(members * _MINIMUM_SHARE)),
            round_deadline_s=_ROUND_DEADLINE_S,
            attempts=1,
        ),
    )


def lay_out(folder: Path, *, plan: Plan, companies: Sequence[CompanyData]) -> SimulatedFederation:
    """Make a coordinator that has prepared one run, and a member for each company with its training conversations.

    Args:
        folder: to make everything in; empty.
        plan: of the run.
        companies: one a member.
    """
    coordinator = CoordinatorHome(folder / "coordinator").create()
    settings = CoordinatorSettings(federation=plan.federation, demonstration=plan.demonstration)
    save_coordinator_settings(coordinator, settings=settings)
    create_signing_keys(coordinator)
    create_database(coordinator, settings=settings)
    public_key = plan_public_key(coordinator)
    homes: dict[str, MemberHome] = {}
    size_classes: dict[str, int] = {}
    for place, company in enumerate(companies):
        home = MemberHome(member_folder(folder, place)).create()
        write_jsonl(home.root / CONVERSATIONS_FILE, company.train)
        size_classes[company.name] = nearest_size_class(len(company.train))
        save_member_settings(
            home,
            settings=MemberSettings(
                federation=plan.federation,
                member=company.name,
                fleet_address=settings.fleet_address_for_members,
                release_address=settings.release_address_for_members,
                demonstration=plan.demonstration,
                plan_public_key=public_key,
                size_class=size_classes[company.name],
                data=DataSettings(files=(CONVERSATIONS_FILE,)),
            ),
        )
        homes[company.name] = home
    run = Launcher(home=coordinator, settings=settings).prepare(plan)
    return SimulatedFederation(plan=plan, run=run, members=homes, size_classes=size_classes)


def member_folder(folder: Path, place: int) -> Path:
    """Return the folder of the member at a place, counted from 0; an engine that knows only places finds it too."""
    return folder / "members" / f"{place:05d}"
