"""Speed on one core: the private step against the same step without privacy and against Opacus, encoders, scoring.

    .venv/bin/python benchmarks/speed.py [--json FILE] [--table docs/speed.md]

Every variant of one question runs in turn, again and again, and ratios are taken within a turn: what else the machine does
meets all of them alike. Each figure is the median over the turns. One thread everywhere, and time of the processor, not of the
clock on the wall: on an idle core they are the same, and beside other work only the first is what the step costs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402 - the number of threads is read on import
import numpy.typing as npt  # noqa: E402

PREFIXES = 4
STEPS_OF_A_ROUND = 10
"""A plan's default; every variant takes as many, and figures are of one."""
DIMENSION = 108
POSITIVES = 0.15
SENTINEL_MESSAGES_PER_S = 136
"""What Sentinel 2.0 scores on one core, with its own encoder; measured once, beside this software's first version."""

Features = npt.NDArray[np.float32]
Step = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """How long the variants of one question took.

    Attributes:
        question: what was done.
        baseline: the variant that ratios are against.
        seconds: by variant, the median of one step.
        ratios: by variant, the median over turns of its time over the baseline's in the same turn.
    """

    question: str
    baseline: str
    seconds: Mapping[str, float]
    ratios: Mapping[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=60, help="how often each variant runs")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--table", type=Path, help="replace the tables in this document")
    given = parser.parse_args()
    steps = [
        timing
        for architecture in ("linear-109", "hidden-1761")
        for batch in (256, 1024, 4096)
        for timing in [private_steps(architecture, batch, turns=given.turns)]
    ]
    scores = scoring(turns=given.turns)
    text = f"{step_table(steps)}\n\n{scoring_table(scores)}\n"
    print(text)
    if given.json:
        given.json.write_text(
            json.dumps({"steps": [asdict(item) for item in steps], "scoring": scores}, indent=2) + "\n"
        )
    if given.table:
        write_table(given.table, text)


def private_steps(architecture: str, batch: int, *, turns: int) -> Timing:
    """Time one step on a batch: private, the same code without privacy, plain PyTorch, written-out BLAS, Opacus."""
    import torch
    from torch import nn

    from ringfence.model.head import ARCHITECTURES, HiddenLayerHead
    from ringfence.model.plan import TrainingTerms
    from ringfence.privacy.clipped_sum import ClippedSumSource, HeadGradients
    from ringfence.privacy.grid import Grid
    from ringfence.privacy.opacus_backend import ModuleGradients
    from ringfence.privacy.private_step import StepTerms
    from ringfence.privacy.secure_noise import Csprng
    from ringfence.privacy.training import descend_privately

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(batch, PREFIXES, DIMENSION)).astype(np.float32)
    features *= 4 / np.linalg.norm(features, axis=2, keepdims=True)
    labels = (rng.uniform(size=batch) < POSITIVES).astype(np.int64)
    model = 0.05 * rng.normal(size=ARCHITECTURES[architecture].parameter_count(DIMENSION))
    source = HeadGradients(architecture, features, labels, grid=Grid(1.0, len(model)), positive_weight=2.0)
    terms = StepTerms(noise_multiplier=22.3, sample_rate=None, divisor=float(batch))
    training = TrainingTerms(feature_set_sha256="0" * 64, architecture=architecture)
    secret = Csprng()

    def private_steps_of(examples: ClippedSumSource) -> Step:
        return lambda: descend_privately(
            examples, model, terms=training, step=terms, steps=STEPS_OF_A_ROUND, rng=secret
        )

    def module() -> nn.Module:
        if architecture == "linear-109":
            return nn.Linear(DIMENSION, 1)
        units = HiddenLayerHead.UNITS
        return nn.Sequential(nn.Linear(DIMENSION, units), nn.ReLU(), nn.Linear(units, 1))

    class PrefixModule(nn.Module):
        """One logit a prefix, as the backend for any module wants it."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = module().double()

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.inner(rows).squeeze(-1)
            return logits

    hooked = ModuleGradients(
        PrefixModule(), features, labels, grid=Grid(1.0, len(model)), positive_weight=2.0
    )
    sizes = example_sizes(batch, rng)
    grouped = HeadGradients(
        architecture,
        features,
        labels,
        grid=Grid(1.0, len(model)),
        positive_weight=2.0,
        weights=np.where(np.repeat(sizes, sizes) > 2, 0.5, 1.0),
        group_sizes=sizes,
    )
    once: dict[str, Step] = {
        "plain PyTorch, float64": torch_step(module().double(), features, labels),
        "same code, no clipping, no noise": with_momentum(lambda: source.mean_gradient(model), len(model)),
        "plain PyTorch, float32": torch_step(module(), features, labels),
        "Opacus' own step, float32": opacus_step(module(), features, labels),
        "Opacus' own step, float64": opacus_step(module().double(), features, labels),
    }
    if architecture == "linear-109":
        once["two products by hand, float64"] = by_hand_step(features, labels, model)
    rounds = {name: repeated(step) for name, step in once.items()}
    rounds["private (Ringfence)"] = private_steps_of(source)
    rounds["private, conversations grouped (Ringfence)"] = private_steps_of(grouped)
    rounds["our step on Opacus' hooks, float64"] = private_steps_of(hooked)
    return measure(f"{architecture}, {batch} conversations", rounds, turns=turns, steps=STEPS_OF_A_ROUND)


def example_sizes(conversations: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return how many conversations each example has, spread as in the simulation under grouped bounds with k = 1."""
    sizes = rng.choice([1, 2, 3, 4, 5, 6], size=conversations, p=[0.61, 0.22, 0.11, 0.04, 0.01, 0.01])
    ends = np.cumsum(sizes)
    kept = sizes[: int(np.searchsorted(ends, conversations)) + 1]
    kept[-1] -= kept.sum() - conversations
    return kept.astype(np.int64)


def repeated(step: Step) -> Step:
    """Return as many steps as a round has."""

    def steps() -> None:
        for _ in range(STEPS_OF_A_ROUND):
            step()

    return steps


def with_momentum(gradient: Callable[[], npt.NDArray[np.float64]], size: int) -> Step:
    """Return a whole step: a gradient, momentum, descent."""
    velocity, current = np.zeros(size), np.zeros(size)

    def step() -> None:
        nonlocal velocity, current
        velocity = 0.9 * velocity + gradient()
        current = current - 0.4 * velocity

    return step


def torch_step(module: object, features: Features, labels: npt.NDArray[np.int64]) -> Step:
    """Return the step that a PyTorch user writes: the loss averaged over prefixes, backward, SGD with momentum."""
    import torch
    from torch import nn

    assert isinstance(module, nn.Module)
    kind = next(module.parameters()).dtype
    inputs, targets = torch.as_tensor(features, dtype=kind), torch.as_tensor(labels, dtype=kind)
    loss_weights = 1.0 + targets
    spread = targets[:, None].expand(-1, PREFIXES)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.4, momentum=0.9)

    def step() -> None:
        optimiser.zero_grad()
        losses = nn.functional.binary_cross_entropy_with_logits(
            module(inputs).squeeze(-1), spread, reduction="none"
        )
        ((losses.mean(dim=1) * loss_weights).sum() / len(targets)).backward()
        optimiser.step()

    return step


def opacus_step(module: object, features: Features, labels: npt.NDArray[np.int64]) -> Step:
    """Return Opacus' own private step: per-sample gradients by hooks, its optimiser clips and adds noise."""
    import torch
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer
    from torch import nn

    assert isinstance(module, nn.Module)
    hooked = GradSampleModule(module, loss_reduction="sum")
    kind = next(module.parameters()).dtype
    inputs, targets = torch.as_tensor(features, dtype=kind), torch.as_tensor(labels, dtype=kind)
    loss_weights = 1.0 + targets
    spread = targets[:, None].expand(-1, PREFIXES)
    optimiser = DPOptimizer(
        torch.optim.SGD(hooked.parameters(), lr=0.4, momentum=0.9),
        noise_multiplier=22.3,
        max_grad_norm=1.0,
        expected_batch_size=len(labels),
        loss_reduction="sum",
    )

    def step() -> None:
        optimiser.zero_grad()
        losses = nn.functional.binary_cross_entropy_with_logits(
            hooked(inputs).squeeze(-1), spread, reduction="none"
        )
        (losses.mean(dim=1) * loss_weights).sum().backward()
        optimiser.step()

    return step


def by_hand_step(features: Features, labels: npt.NDArray[np.int64], model: npt.NDArray[np.float64]) -> Step:
    """Return the fastest step without privacy that we know: no gradient of a single conversation ever exists."""
    batch = len(labels)
    rows = np.concatenate([features, np.ones((batch, PREFIXES, 1), np.float32)], axis=2).astype(np.float64)
    flat = rows.reshape(batch * PREFIXES, -1)
    targets = np.repeat(labels, PREFIXES).astype(np.float64)
    shares = (1.0 + targets) / PREFIXES / batch

    def gradient() -> npt.NDArray[np.float64]:
        residuals = (1.0 / (1.0 + np.exp(-(flat @ model))) - targets) * shares
        result: npt.NDArray[np.float64] = residuals @ flat
        return result

    return with_momentum(gradient, len(model))


def scoring(*, turns: int) -> dict[str, float]:
    """Return figures of encoding and scoring: messages or conversations a second, milliseconds for one."""
    import tempfile

    from ringfence.demo.company_data import benign_chat
    from ringfence.model.conversation import Conversation
    from ringfence.model.detector import Detector
    from ringfence.model.explanation import explain
    from ringfence.model.feature_set import load_feature_set
    from ringfence.model.onnx_export import export_onnx
    from ringfence.model.onnx_scoring import OnnxHead
    from ringfence.model.running_score import LiveConversation, timeline

    features = load_feature_set()
    detector = Detector(features, features.warm_start)
    messages = [message for item in benign_chat() for message in item.messages][:4000]
    texts = [message.text for message in messages]
    conversations = [
        Conversation(f"c{start}", tuple(messages[start : start + 20])) for start in range(0, 4000, 20)
    ]
    rows = features.rows_of(conversations)[:, 0]
    live, crowded = (LiveConversation(detector, name) for name in ("two people", "hundreds of people"))
    of_two = [replace(message, author="ab"[index % 2]) for index, message in enumerate(messages)]
    place = iter(range(10**9))
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.onnx"
        export_onnx(detector, graph)
        onnx = OnnxHead(graph)
    few = max(3, turns // 10)
    one_message = seconds_of(lambda: live.add(of_two[next(place) % len(messages)]), 40 * turns)
    among_many = seconds_of(lambda: crowded.add(messages[next(place) % len(messages)]), 40 * turns)
    one = conversations[7]
    return {
        f"encoding with {features.name}, messages/s, 2,000 at once": 2000
        / statistics.median(seconds_of(lambda: features.embed(texts[:2000]), few)),
        f"encoding with {features.name}, messages/s, one by one": 1
        / statistics.median(seconds_of(lambda: features.embed(texts[5:6]), 10 * turns)),
        "a new message: score after it, ms (median)": 1e3 * statistics.median(one_message),
        "a new message: score after it, ms (fastest tenth)": 1e3 * float(np.quantile(one_message, 0.1)),
        "a new message: score after it, ms (slowest twentieth)": 1e3 * float(np.quantile(one_message, 0.95)),
        "a new message among hundreds of people, ms (median)": 1e3 * statistics.median(among_many),
        "new messages scored, messages/s": 1 / statistics.median(one_message),
        f"the same over Sentinel's {SENTINEL_MESSAGES_PER_S} messages/s, times": 1
        / statistics.median(one_message)
        / SENTINEL_MESSAGES_PER_S,
        "a conversation of 20 messages alone, ms": 1e3
        * statistics.median(seconds_of(lambda: detector.score(one), turns)),
        "200 conversations of 20 messages at once, conversations/s": 200
        / statistics.median(seconds_of(lambda: detector.score_together(conversations), few)),
        "its timeline, ms": 1e3 * statistics.median(seconds_of(lambda: timeline(detector, one), turns)),
        "its explanation, ms": 1e3 * statistics.median(seconds_of(lambda: explain(detector, one), turns)),
        "the head alone, 200 rows, ms": 1e3
        * statistics.median(seconds_of(lambda: detector.logits(rows), turns)),
        "the head alone by ONNX, 200 rows, ms": 1e3
        * statistics.median(seconds_of(lambda: onnx.score(rows), turns)),
    }


def measure(question: str, variants: Mapping[str, Step], *, turns: int, steps: int) -> Timing:
    """Run every variant once a turn; the first one named is what ratios are against.

    Args:
        question: what is asked.
        variants: by name, so many steps each.
        turns: how often each runs.
        steps: that one call of a variant takes.
    """
    for step in variants.values():
        step()
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(turns):
        for name, step in variants.items():
            step()  # fills the caches with what this variant needs, as a run of many rounds does
            taken[name].append(seconds_of(step, 1)[0] / steps)
    baseline = next(iter(variants))
    return Timing(
        question=question,
        baseline=baseline,
        seconds={name: statistics.median(values) for name, values in taken.items()},
        ratios={
            name: statistics.median(value / base for value, base in zip(values, taken[baseline], strict=True))
            for name, values in taken.items()
        },
    )


def seconds_of(step: Step, times: int) -> list[float]:
    """Return how long each of several calls took."""
    result = []
    for _ in range(times):
        start = time.process_time()
        step()
        result.append(time.process_time() - start)
    return result


def step_table(timings: list[Timing]) -> str:
    """Return one row a variant and question."""
    lines = [
        "| step | variant | ms | times plain PyTorch (float64) | times the private step |",
        "|---|---|---|---|---|",
    ]
    for timing in timings:
        ours = timing.ratios["private (Ringfence)"]
        for name, seconds in sorted(timing.seconds.items(), key=lambda item: item[1]):
            bold = "**" if name.startswith("private") else ""
            lines.append(
                f"| {timing.question} | {bold}{name}{bold} | {1e3 * seconds:.3f} | {timing.ratios[name]:.2f} "
                f"| {timing.ratios[name] / ours:.2f} |"
            )
    return "\n".join(lines)


def scoring_table(figures: Mapping[str, float]) -> str:
    """Return one row a figure."""
    rows = [f"| {name} | {value:,.3f} |" for name, value in figures.items()]
    return "\n".join(["| scoring | figure |", "|---|---|", *rows])


def write_table(path: Path, text: str) -> None:
    """Replace what stands between the two marks of a document."""
    before, rest = path.read_text(encoding="utf-8").split("<!-- figures -->\n", 1)
    after = rest.split("<!-- end of figures -->", 1)[1]
    path.write_text(f"{before}<!-- figures -->\n{text}<!-- end of figures -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
