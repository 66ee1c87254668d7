"""One demonstration from conversations to scores, step by step."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ringfence.client.contribution_key import contribution_secret
from ringfence.client.local_data import training_rows
from ringfence.client.pseudonyms import Pseudonyms
from ringfence.demo.company_data import Companies, companies_from_corpus, simulated_companies
from ringfence.demo.demo_folder import DemoFolder
from ringfence.demo.federation import CONTRIBUTION_BOUND, FEDERATION, VERSION, Federation
from ringfence.demo.outcome_text import introduction, shown_epsilon
from ringfence.demo.processes import Processes
from ringfence.demo.reference_rows import FEDERATED, HeldOut, OpenRows, QualityRow, reference_rows
from ringfence.model.bounds import RECOMMENDED_BOUNDS
from ringfence.model.detector import Detector
from ringfence.model.errors import ConfigError, RingfenceError
from ringfence.model.feature_set import FeatureSet, load_feature_set
from ringfence.model.head import ARCHITECTURES
from ringfence.model.plan import RECOMMENDED_WEIGHT_DECAY, CohortTerms, Plan, PrivacyTerms, TrainingTerms
from ringfence.privacy.accounting import epsilon_of
from ringfence.privacy.planning import noise_multiplier_for

_MEMBERS = 3
_CONVERSATIONS = 500
_FEATURES = "static-128"
_DELTA = 1e-6
_LOCAL_STEPS = 10
# A third of the steps of a plan's defaults, and a fraction of their noise, ask for longer ones.
_LEARNING_RATE = 0.6
_DEADLINE_S = 60.0
_SCORE_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class DemoTerms:
    """What a demonstration is asked for.

    Attributes:
        corpus: labelled JSONL files; none for the simulation.
        members: companies; None for three, or one a file.
        rounds: aggregations.
        conversations: training conversations of each company at most; None for 500: the companies meant here are small.
        epsilon: of a person at one company, over the run.
        folder: the one folder that is written to.
        seed: decides the conversations.
    """

    corpus: tuple[Path, ...]
    members: int | None
    rounds: int
    conversations: int | None
    epsilon: float
    folder: Path
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a demonstration showed.

    Attributes:
        folder: everything that it wrote.
        members: the companies.
        run: name of the run.
        rows: the table of quality.
        epsilon: of a person at one company.
        meaning: what that means, in a sentence.
        version: of the release.
        release: its folder at the first member.
        signed_by: members that countersigned.
        round_s: seconds a round, on average.
        total_s: seconds in all.
    """

    folder: Path
    members: tuple[str, ...]
    run: str
    rows: tuple[QualityRow, ...]
    epsilon: float
    meaning: str
    version: str
    release: Path
    signed_by: str
    round_s: float
    total_s: float

    @property
    def federated(self) -> QualityRow:
        """The row of what the federation trained."""
        return next(row for row in self.rows if row.name == FEDERATED)

    def as_data(self) -> dict[str, object]:
        """Return everything as plain JSON values."""
        values: dict[str, object] = asdict(self)
        return {**values, "folder": str(self.folder), "release": str(self.release)}


def demonstrate(terms: DemoTerms, *, say: Callable[[str], None]) -> Outcome:
    """Run a whole federation and return what it was worth. Every process is gone when this returns or raises.

    Raises:
        ConfigError: the terms do not fit each other, or the folder is in use for something else. The user's to mend.
        DataError: the corpus cannot be used. The user's to mend.
        RingfenceError: a step of the federation failed; the message is that step's own.
    """
    began = time.monotonic()
    companies = _companies(terms)
    names = tuple(company.name for company in companies.companies)
    features = load_feature_set(_FEATURES)
    plan = make_plan(terms, features=features, members=len(names))
    threshold = min(2, len(names))
    folder = DemoFolder(root=terms.folder, members=names)
    with folder.claim() as claim:
        for line in introduction(companies.companies, source=companies.source, folder=terms.folder):
            say(line)
        with Processes(logs=folder.logs, inherited=(claim,)) as processes:
            federation = Federation(folder=folder, processes=processes, epsilon=terms.epsilon)
            federation.found(companies.companies, threshold=threshold)
            say("Coordinator and members run as processes, with mutual TLS between them.")
            rounds_began = time.monotonic()
            _show_progress(federation.run(plan), total=terms.rounds)
            round_s = (time.monotonic() - rounds_began) / terms.rounds
            release = federation.release(threshold=threshold)
            _check_release(release, federation=federation, companies=companies)
        rows = _measure(companies, plan=plan, features=features, federation=federation)
        statement = epsilon_of(plan)
        return Outcome(
            folder=terms.folder,
            members=names,
            run=federation.latest_run().name,
            rows=tuple(rows),
            epsilon=statement.epsilon,
            meaning=_meaning(plan, platforms=dict(statement.epsilon_by_platforms)),
            version=VERSION,
            release=release,
            signed_by=f"{threshold} of {len(names)} members",
            round_s=round_s,
            total_s=time.monotonic() - began,
        )


def make_plan(terms: DemoTerms, *, features: FeatureSet, members: int) -> Plan:
    """Return the plan of a demonstration: full batch, member noise, and the noise that epsilon asks for."""

    def with_noise(noise: float) -> Plan:
        return Plan(
            name="demo",
            federation=FEDERATION,
            demonstration=True,
            training=TrainingTerms(
                feature_set=features.name,
                feature_set_sha256=features.fingerprint,
                rounds=terms.rounds,
                local_steps=_LOCAL_STEPS,
                learning_rate=_LEARNING_RATE,
                weight_decay=RECOMMENDED_WEIGHT_DECAY,
            ),
            privacy=PrivacyTerms(
                contribution_bound=CONTRIBUTION_BOUND,
                bounds=RECOMMENDED_BOUNDS,
                delta=_DELTA,
                noise_multiplier=noise,
            ),
            cohort=CohortTerms(minimum=max(2, members - 1), round_deadline_s=_DEADLINE_S),
        )

    noise = noise_multiplier_for(
        terms.epsilon,
        contribution_bound=CONTRIBUTION_BOUND,
        sample_rate=1.0,
        steps=terms.rounds * _LOCAL_STEPS,
        delta=_DELTA,
    )
    plan = with_noise(noise)
    # What is stated counts the noise's finite tails as well: never above what was asked for.
    while epsilon_of(plan).epsilon > terms.epsilon:
        noise *= 1.0001
        plan = with_noise(noise)
    return plan


def _companies(terms: DemoTerms) -> Companies:
    if not terms.corpus:
        return simulated_companies(
            members=terms.members or _MEMBERS,
            conversations=terms.conversations or _CONVERSATIONS,
            seed=terms.seed,
        )
    if len(terms.corpus) > 1 and terms.members not in (None, len(terms.corpus)):
        raise ConfigError(
            "There is one company for each file.", hint="Leave out --members, or give one file."
        )
    return companies_from_corpus(
        terms.corpus,
        members=terms.members or _MEMBERS,
        conversations=terms.conversations or _CONVERSATIONS,
        seed=terms.seed,
    )


def _show_progress(done: Iterable[int], *, total: int) -> None:
    bar = Progress(
        TextColumn("Training"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TextColumn("rounds"),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
    )
    with bar:
        task = bar.add_task("rounds", total=total)
        for round_ in done:
            bar.update(task, completed=round_)


def _check_release(release: Path, *, federation: Federation, companies: Companies) -> None:
    """Score held-out conversations with the installed release, and hold the scores against the run's own model."""
    company = companies.companies[0]
    scored = np.array(federation.score(company.name))
    installed = Detector.load(release)
    trained = Detector(
        feature_set=installed.feature_set,
        architecture=installed.architecture,
        parameters=federation.published_parameters(),
        calibration=installed.calibration,
    )
    expected = np.array([score.probability for score in trained.score_together(list(company.test))])
    if scored.shape != expected.shape or np.abs(scored - expected).max() > _SCORE_TOLERANCE:
        raise RingfenceError("The installed release does not score like the model that was trained.")


def _measure(
    companies: Companies, *, plan: Plan, features: FeatureSet, federation: Federation
) -> list[QualityRow]:
    training = {
        company.name: training_rows(
            federation.folder.member(company.name),
            # As the member's agent read them: the same names give the same choice, and the same rows from its cache.
            conversations=Pseudonyms(contribution_secret(federation.folder.member(company.name))).of(
                company.train
            ),
            feature_set=features,
            prefixes=plan.training.prefixes,
            contribution_bound=plan.privacy.contribution_bound,
            bounds=plan.privacy.bounds,
        )
        for company in companies.companies
    }
    return reference_rows(
        HeldOut(features, {company.name: company.test for company in companies.companies}),
        plan=plan,
        initial=ARCHITECTURES[plan.training.architecture].initial(features),
        federated=federation.published_parameters(),
        training=training,
        everything={
            company.name: OpenRows(
                features.rows_of(company.train, plan.training.prefixes),
                np.array([item.label for item in company.train], np.int64),
            )
            for company in companies.companies
        },
        size_classes=federation.size_classes,
    )


def _meaning(plan: Plan, *, platforms: dict[int, float]) -> str:
    bound = plan.privacy.contribution_bound
    return (
        f"whoever sees the released models can hardly tell whether the content of any one person's conversations (which "
        f"count for at most {bound} at a company) was part of the training; {shown_epsilon(platforms[2])} for a person who is on two of the "
        f"platforms (delta {plan.privacy.delta:g})."
    )
