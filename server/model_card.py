"""``README.md`` of a release: its model card.

It has the front matter of model hubs and the seven sections that the ROOST community asks of safety classifiers:
trainingData, policyAndTaxonomy, annotationMethodology, performanceBenchmarks, biasAndLimitations,
implementationGuidance, relevantLinks.
"""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass
from datetime import datetime

from ringfence.model.detector import Detector
from ringfence.model.evidence import ADVERSARIES, Adversary, PrivacyEvidence, round_up
from ringfence.model.plan import Plan
from ringfence.model.quality_report import SYSTEM_NAMES, QualityReport

CARD_FILE = "README.md"

LIMITS = (
    "English first: other languages were neither trained for nor measured.",
    "No figure here comes from real grooming language.",
    "The stage phrases behind the public features were written by engineers and need child-safety experts.",
    "Talk of people who seek help and talk about identity are a known risk of false alarms.",
    "A score is a reason for a person to look, never a verdict.",
)

_ADVERSARY_NAMES: dict[Adversary, str] = {
    "coordinator": "the coordinator",
    "member": "one other member",
    "coordinator-and-members": "the coordinator and colluding members (headline)",
    "everybody-else": "everybody else together (fallback)",
}

_STAGES = (
    "access, rapport, personal information, risk assessment, secrecy or isolation, move to another platform, "
    "gift or reward, request to meet, pressure"
)


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card says.

    Attributes:
        name: of the release.
        version: of the release.
        detector: what is released.
        plan: of the training run.
        evidence: what ``privacy.json`` holds.
        quality: the figures, if any were measured.
        created_at: when the release was built.
    """

    name: str
    version: str
    detector: Detector
    plan: Plan
    evidence: PrivacyEvidence
    quality: QualityReport | None
    created_at: datetime


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown; the same facts give the same text."""
    sections = (
        ("Training data", "trainingData", _training_data(facts)),
        ("Policy and taxonomy", "policyAndTaxonomy", _policy()),
        ("Annotation methodology", "annotationMethodology", _annotation(facts)),
        ("Performance benchmarks", "performanceBenchmarks", _performance(facts)),
        ("Bias and limitations", "biasAndLimitations", "\n".join(f"* {limit}" for limit in LIMITS)),
        ("Implementation guidance", "implementationGuidance", _guidance(facts)),
        ("Relevant links", "relevantLinks", _links()),
    )
    body = "\n\n".join(f'## {title} <a id="{key}"></a>\n\n{text}' for title, key, text in sections)
    return f"{_front_matter(facts)}\n# {facts.name} {facts.version}\n\n{_summary(facts)}\n\n{body}\n\n{_privacy(facts)}\n"


def _front_matter(facts: CardFacts) -> str:
    lines = [
        "---",
        "language: [en]",
        "license: apache-2.0",
        "library_name: ringfence",
        "pipeline_tag: text-classification",
        "tags: [trust-and-safety, child-safety, federated-learning, differential-privacy, onnx]",
    ]
    if facts.quality is not None:
        row = facts.quality.released()
        lines += [
            "model-index:",
            f"  - name: {facts.name}",
            "    results:",
            "      - task: {type: text-classification}",
            # JSON strings are YAML strings: whatever the description holds, the front matter stays one.
            f"        dataset: {{type: held-out, name: {json.dumps(facts.quality.data)}}}",
            "        metrics:",
            f"          - {{type: roc_auc, value: {row.auroc:.3f}}}",
            f"          - {{type: average_precision, value: {row.average_precision:.3f}}}",
        ]
    return "\n".join([*lines, "---", ""])


def _summary(facts: CardFacts) -> str:
    demonstration = (
        "\n\n**This release comes from a demonstration federation on public or invented data. Do not use it to decide "
        "about people.**"
        if facts.evidence.demonstration
        else ""
    )
    return (
        "Scores a chat conversation for signs of grooming, so that a person may look at the riskiest first. Trained by "
        f"{facts.evidence.contributors} companies of the federation `{facts.plan.federation}`; no conversation left its "
        f"company. Built {facts.created_at.date().isoformat()} with Ringfence {importlib.metadata.version('ringfence')}."
        f"{demonstration}\n\n> {facts.evidence.promise()}"
    )


def _training_data(facts: CardFacts) -> str:
    training = facts.plan.training
    inputs = "\n".join(
        f"| {_cell(item.name)} | {_cell(item.origin)} | {_cell(item.licence)} |"
        for item in facts.evidence.public_inputs
    )
    return (
        f"Private: labelled conversations of {facts.evidence.contributors} companies, each at its own place. How many each "
        "company used is not known to anyone else, by design. Only the head "
        f"(`{training.architecture}`, {facts.detector.parameters.size} parameters) was trained on them: "
        f"{training.rounds} rounds of {training.local_steps} steps.\n\n"
        f"Public, frozen, in `features/` (`{facts.detector.feature_set.name}`):\n\n"
        f"| input | origin | licence |\n|---|---|---|\n{inputs}"
    )


def _policy() -> str:
    return (
        "One question: does a person in this conversation work towards the trust, isolation or meeting of somebody who "
        "may be a child? The public features name nine stages after O'Connell 2003, Olson 2007 and Lorenzo-Dus 2016: "
        f"{_STAGES}. No stage is sexual, and no sexual content was used or is sought."
    )


def _annotation(facts: CardFacts) -> str:
    if facts.evidence.demonstration:
        return (
            "Demonstration: labels come with the public or invented corpus that the companies were given; no reviewer "
            "decided them."
        )
    return (
        "Labels are decisions of each company's own reviewers under the federation's label guideline, mapped to positive, "
        "negative or ignored at the company. They were not compared between companies: nobody sees another's."
    )


def _performance(facts: CardFacts) -> str:
    quality = facts.quality
    if quality is None:
        return "No quality was measured for this release. Each member evaluates it on its own data before it approves."
    capacity = f" | precision at {quality.capacity:.0%} reviewed" if quality.capacity is not None else ""
    rule = "|---" if quality.capacity is not None else ""
    rows = []
    for row in quality.rows:
        last = ""
        if quality.capacity is not None:
            precise = row.precision_at_capacity
            last = f" | {precise:.3f}" if precise is not None else " | not measured"
        rows.append(f"| {SYSTEM_NAMES[row.system]} | {row.auroc:.3f} | {row.average_precision:.3f}{last} |")
    mean = f", mean of {quality.runs} trainings with different noise" if quality.runs > 1 else ""
    table = f"| detector | AUROC | average precision{capacity} |\n|---|---|---{rule}|\n" + "\n".join(rows)
    return f"Measured on: {quality.data}. {quality.method}{mean}.\n\n{table}"


def _guidance(facts: CardFacts) -> str:
    calibration = facts.detector.calibration
    thresholds = [
        f"* {name} threshold: probability {value:.3f}"
        for name, value in (
            ("High-recall", calibration.high_recall),
            ("High-precision", calibration.high_precision),
        )
        if value is not None
    ]
    measured = "\n".join(thresholds) or "* No thresholds were measured for this release."
    return (
        "* Prefer a daily queue of the highest scores, as long as your reviewers can read it, to a fixed threshold.\n"
        "* Calibrate on your own decisions before you read the probability as one "
        f"(here: {calibration.fitted_on}).\n"
        f"{measured}\n"
        "* Never act on a score alone. Tell reviewers that a score is not evidence.\n"
        "* A change of MAJOR version voids thresholds; MINOR is retrained; PATCH is packaging.\n\n"
        "```\nringfence score --model . examples.jsonl\n```\n\n"
        "`model.onnx` takes standardised feature rows and gives score and probability; `examples.scores.jsonl` holds what "
        "`examples.jsonl` must score."
    )


def _links() -> str:
    return (
        "* `privacy.json`: the evidence behind the promise above\n"
        "* `bom.cdx.json`: bill of materials (CycloneDX)\n"
        "* `provenance.intoto.json`: signed provenance (in-toto, SLSA)\n"
        '* Ganesh, McKenna, McMahan, Smith, Wu 2025, "It\'s My Data Too": https://arxiv.org/abs/2503.03622\n'
        "* NIST SP 800-226, Guidelines for Evaluating Differential Privacy Guarantees: "
        "https://csrc.nist.gov/pubs/sp/800/226/final"
    )


def _privacy(facts: CardFacts) -> str:
    evidence = facts.evidence
    rows = "\n".join(
        f"| {_ADVERSARY_NAMES[adversary]} | {round_up(evidence.guarantee(adversary).epsilon)} | {evidence.delta:g} |"
        for adversary in ADVERSARIES
    )
    limits = "\n".join(f"* {limit}" for limit in evidence.known_limits)
    return (
        f"## Privacy\n\n{evidence.promise()}\n\nFor one conversation alone: epsilon "
        f"{round_up(evidence.per_conversation_epsilon)}. Computed with {evidence.accountant.name} "
        f"{evidence.accountant.version}.\n\n| who looks | epsilon | delta |\n|---|---|---|\n{rows}\n\n"
        f"Known limits of the promise:\n\n{limits}"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
