"""``ringfence model personalise``: a head of one's own from a release, out of a reserved part of the budget. It stays here."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit, note
from ringfence.model.errors import BudgetError

if TYPE_CHECKING:
    from ringfence.client.local_data import TrainingRows
    from ringfence.client.personal_head import PersonalHead
    from ringfence.client.policy import Policy
    from ringfence.model.detector import Detector
    from ringfence.privacy.ledger import Ledger
    from ringfence.privacy.ledger_charge import Charge
    from ringfence.privacy.renyi_filter import SampledGaussian

_DIGEST_SHOWN = 32
_NO_DIGEST = "0" * 64


def personalise(
    epsilon: Annotated[
        float,
        typer.Option(
            "--epsilon", min=0.01, help="Of this training alone, for a person with k conversations."
        ),
    ] = 1.0,
    model: Annotated[
        Path | None, typer.Option("--model", help="A release folder; the member's release in use by default.")
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Go back to the release. What was spent stays spent.")
    ] = False,
    home: Annotated[
        Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train the release in use a little further on one's own conversations, in private, and keep whichever ranks better here.

    The head stays at this company, and its cost is charged to the ledger all the same: to the part of the lifetime budget that
    the policy keeps for it ([budget] personalisation_share). Stop the agent meanwhile; both need the ledger.
    """
    from ringfence.client.personal_head import remove

    located = MemberHome.locate(home)
    if reset:
        remove(located)
        emit(
            "The release scores as it came.\nNext: ringfence score FILE",
            data={"reset": True},
            as_json=as_json,
        )
        return
    head = _made(located, model=model, epsilon=epsilon)
    compared = head.compared
    used = (
        "It ranks better and is used from now on."
        if head.is_better
        else "The release stays in use: it ranks as well or better."
    )
    emit(
        f"Epsilon {head.epsilon:g} (delta {head.delta:g}) was charged for {head.steps} steps; the head stays in "
        f"{located.personal_head_file}.\n"
        f"On {compared.conversations:,} conversations of people who were left out, {compared.positives:,} of them positive: "
        f"average precision {compared.release:.3f} of the release, {compared.personal:.3f} of the own head.\n"
        f"{used}\nNext: {'ringfence model calibrate' if head.is_better else 'ringfence budget show'}",
        data={
            "epsilon": head.epsilon,
            "delta": head.delta,
            "steps": head.steps,
            "noise_multiplier": head.noise_multiplier,
            "compared": compared.model_dump(),
            "in_use": head.is_better,
            "file": str(located.personal_head_file),
        },
        as_json=as_json,
    )


def _made(home: MemberHome, *, model: Path | None, epsilon: float) -> PersonalHead:
    """Return a head that was charged and is in place: a new one, or one of a training that was cut off after its charge."""
    from ringfence.client.contribution_key import contribution_secret
    from ringfence.client.exclusions import exclusions_stamp
    from ringfence.client.member_settings import load_member_settings
    from ringfence.client.personal_head import forget_put_aside, keep, put_aside, put_aside_before
    from ringfence.client.personalisation import by_people, check_reserve, mechanism_within, personalise
    from ringfence.client.policy import load_policy
    from ringfence.client.policy_check import spending_of
    from ringfence.client.releases import ReleaseStore
    from ringfence.client.row_cache import RowCache
    from ringfence.model.detector import Detector
    from ringfence.privacy.secure_noise import Csprng

    settings, policy = load_member_settings(home), load_policy(home)
    detector = Detector.load(model if model is not None else ReleaseStore(home).verified_current())
    mechanism = mechanism_within(policy, epsilon=epsilon)
    with _opened(home, policy, lineage=settings.data.lineage) as ledger:
        with RowCache(home).lock():
            left = put_aside_before(home)
            if left is not None and _is_charged(ledger, left):
                keep(home)
                return left
            forget_put_aside(home)
        spent = spending_of(ledger.entries(), order=ledger.state.terms.order, plan_digest="")
        check_reserve(
            mechanism,
            policy=policy,
            terms=ledger.state.terms,
            spent=(spent.personal_headline_units, spent.personal_fallback_units),
        )
        _check_charge(ledger, mechanism, release=detector.digest())
        while True:
            forgotten = exclusions_stamp(home)
            rows = _rows(home, detector, policy)
            head = personalise(
                detector,
                by_people(rows, secret=contribution_secret(home)),
                mechanism=mechanism,
                epsilon=epsilon,
                delta=policy.budget.delta,
                size_class=settings.size_class,
                rng=Csprng(),
                now=datetime.now(UTC),
            )
            with RowCache(home).lock():  # nobody can be forgotten meanwhile
                if exclusions_stamp(home) == forgotten:
                    # On disk where nothing uses it, then charged, then into place: whatever is cut off, nothing is used
                    # uncharged.
                    put_aside(home, head)
                    try:
                        _charge(ledger, head, mechanism=mechanism, dataset_digest=rows.manifest.digest())
                    except BudgetError:
                        if not _is_charged(ledger, head):
                            forget_put_aside(home)
                        raise
                    keep(home)
                    return head
            # Perhaps with them: nobody has seen this head, and nothing was charged for it.
            note("Somebody was forgotten meanwhile: the training starts again, without them.")


def _opened(home: MemberHome, policy: Policy, *, lineage: str) -> Ledger:
    from ringfence.privacy.ledger import Ledger

    return Ledger.open(
        home.ledger_file, anchor_path=policy.anchor_file(home), lineage=lineage, now=time.time()
    )


def _rows(home: MemberHome, detector: Detector, policy: Policy) -> TrainingRows:
    from ringfence.client.local_data import open_labelled, training_rows
    from ringfence.client.member_settings import load_member_settings
    from ringfence.client.personalisation import bounds_within
    from ringfence.model.feature_set import load_feature_set
    from ringfence.model.plan import DEFAULT_PREFIXES

    with open_labelled(home, load_member_settings(home)) as conversations:
        return training_rows(
            home,
            conversations=conversations,
            feature_set=load_feature_set(detector.feature_set.name),
            prefixes=DEFAULT_PREFIXES,
            contribution_bound=policy.limits.contribution_bound,
            bounds=bounds_within(policy),
        )


def _check_charge(ledger: Ledger, mechanism: SampledGaussian, *, release: str) -> None:
    """Refuse before anything is read what the charge would refuse.

    Raises:
        BudgetError: the ledger is closed, a limit is exceeded, the budget does not suffice, or the clock is behind.
    """
    from ringfence.privacy.ledger_charge import charged_entry

    charged_entry(
        ledger.state,
        _cost(_key(_NO_DIGEST), mechanism, release=release, dataset_digest=_NO_DIGEST),
        payload_digest=_NO_DIGEST,
        kind="personalise",
        now=time.time(),
        confirmed=ledger.confirmed,
    )


def _charge(ledger: Ledger, head: PersonalHead, *, mechanism: SampledGaussian, dataset_digest: str) -> None:
    ledger.charge(
        _cost(_key(head.digest()), mechanism, release=head.release_sha256, dataset_digest=dataset_digest),
        head.content(),
        now=time.time(),
        kind="personalise",
    )


def _cost(key: str, mechanism: SampledGaussian, *, release: str, dataset_digest: str) -> Charge:
    from ringfence.client.personalisation import terms_digest
    from ringfence.privacy.ledger_charge import Charge

    return Charge(
        key=key,
        plan_digest=terms_digest(mechanism, release=release),
        dataset_digest=dataset_digest,
        cohort=1,
        mechanism=mechanism,
        own_noise_multiplier=mechanism.noise_multiplier,
    )


def _is_charged(ledger: Ledger, head: PersonalHead) -> bool:
    return any(entry.key == _key(head.digest()) for entry in ledger.entries())


def _key(digest: str) -> str:
    return f"personalise/{digest[:_DIGEST_SHOWN]}"
