"""The demonstration's companies: simulated over real benign chat, or split from a labelled corpus with people kept together."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from ringfence.model.conversation import Conversation
from ringfence.model.errors import DataError
from ringfence.model.jsonl_reader import load_conversations
from ringfence.model.linked_people import linked_groups
from ringfence.model.phrases import PhraseBank
from ringfence.model.simulation import CompanyData, simulate_companies

HELD_OUT_SHARE = 0.25
_MINIMUM_OF_A_KIND = 5
_LONGEST_NAME = 32
_COORDINATOR = "coordinator"  # has a log beside the companies'
FILLER_FILE = "chitchat-part.jsonl.gz"
_NAMES = ("alder", "birch", "cedar", "dogwood", "elm", "fir", "ginkgo", "hazel", "ivy", "juniper")


@dataclass(frozen=True, slots=True)
class Companies:
    """What a demonstration runs on.

    Attributes:
        source: what the conversations are, in a few words.
        companies: training and held-out conversations of each; no person is in both.
    """

    source: str
    companies: tuple[CompanyData, ...]


def benign_chat() -> list[Conversation]:
    """Return the real benign chat that ships with Ringfence (MIT; see the notice beside it)."""
    with as_file(files("ringfence.demo") / "data" / FILLER_FILE) as path:
        return load_conversations([path])


def simulated_companies(
    *, members: int, conversations: int, seed: int, bank: PhraseBank | None = None
) -> Companies:
    """Return companies of the stage simulation, each with ``conversations`` for training and half as many held out.

    ``bank`` holds other phrases than those that ship for the companies.
    """
    found = simulate_companies(
        benign_chat(),
        companies=members,
        conversations_per_company=conversations,
        test_conversations=max(10, conversations // 2),
        seed=seed,
        bank=bank,
    )
    return Companies(source="simulated grooming patterns over real benign chat", companies=tuple(found))


def companies_from_corpus(
    paths: Sequence[Path], *, members: int, conversations: int | None, seed: int
) -> Companies:
    """Return companies from labelled JSONL: one file a company, or one file split with people kept together.

    Two conversations with a person in common go to the same company and to the same side of its held-out split.

    Args:
        paths: one file, or one for each company.
        members: into how many companies one file is split.
        conversations: training conversations of each company at most; all if None.
        seed: decides the split.

    Raises:
        DataError: a file is not in the agreed form, or a company has too few conversations of a kind. The user's data.
    """
    rng = random.Random(seed)  # noqa: S311 - splitting a public corpus, not protecting anybody
    if len(paths) == 1:
        groups = _groups_of_people(_labelled(paths[0]))
        rng.shuffle(groups)
        shares = _deal(groups, into=members)
        names = [_company_name(number) for number in range(members)]
    else:
        shares = []
        for path in paths:
            groups = _groups_of_people(_labelled(path))
            rng.shuffle(groups)
            shares.append(groups)
        names = _names_of(paths)
    companies = tuple(
        _split(name, share, conversations=conversations) for name, share in zip(names, shares, strict=True)
    )
    source = ", ".join(path.name for path in paths[:3]) + (" and others" if len(paths) > 3 else "")
    return Companies(source=source, companies=companies)


def write_jsonl(path: Path, conversations: Sequence[Conversation]) -> None:
    """Write conversations as a company would have them: one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for conversation in conversations:
            file.write(json.dumps(_as_json(conversation), ensure_ascii=False) + "\n")


def _labelled(path: Path) -> list[Conversation]:
    return [item for item in load_conversations([path], require_labels=True) if item.label is not None]


def _groups_of_people(conversations: Sequence[Conversation]) -> list[list[Conversation]]:
    """Return the connected components of "has a person in common", each in the order of the file."""
    groups: dict[int, list[Conversation]] = {}
    for number, item in zip(
        linked_groups([item.participants for item in conversations]), conversations, strict=True
    ):
        groups.setdefault(number, []).append(item)
    return list(groups.values())


def _deal(groups: list[list[Conversation]], *, into: int) -> list[list[list[Conversation]]]:
    """Deal groups to the company that has the fewest conversations so far."""
    shares: list[list[list[Conversation]]] = [[] for _ in range(into)]
    sizes = [0] * into
    for group in groups:
        least = sizes.index(min(sizes))
        shares[least].append(group)
        sizes[least] += len(group)
    return shares


def _split(name: str, groups: list[list[Conversation]], *, conversations: int | None) -> CompanyData:
    total = sum(len(group) for group in groups)
    held_out = int(total * HELD_OUT_SHARE)
    test: list[Conversation] = []
    train: list[Conversation] = []
    for group in groups:
        (test if len(test) < held_out else train).extend(group)
    if conversations is not None:
        train = train[:conversations]
    for side in (train, test):
        positives = sum(item.label == 1 for item in side)
        if positives < _MINIMUM_OF_A_KIND or len(side) - positives < _MINIMUM_OF_A_KIND:
            raise DataError(
                f"The company {name} has too few labelled conversations of one kind, with people kept apart.",
                hint="Use a larger corpus, or fewer companies: --members.",
            )
    return CompanyData(name=name, train=tuple(train), test=tuple(test))


def _company_name(number: int) -> str:
    return _NAMES[number] if number < len(_NAMES) else f"company-{number + 1}"


def _names_of(paths: Sequence[Path]) -> list[str]:
    """Return a name for each company: its file's as far as it makes one, and no two alike."""
    taken = {_COORDINATOR}
    names: list[str] = []
    for number, path in enumerate(paths):
        wanted = _stem(path) or _company_name(number)
        name, suffixes = wanted, itertools.count(2)
        while name in taken:
            suffix = f"-{next(suffixes)}"
            name = wanted[: _LONGEST_NAME - len(suffix)] + suffix
        taken.add(name)
        names.append(name)
    return names


def _stem(path: Path) -> str:
    """Return a file's name as a company's: of ASCII letters, digits and hyphens, or empty."""
    stem = "".join(letter if letter.isalnum() else "-" for letter in path.name.split(".")[0].lower())
    return stem.strip("-")[:_LONGEST_NAME].rstrip("-") if stem.isascii() else ""


def _as_json(conversation: Conversation) -> dict[str, object]:
    return {
        "id": conversation.id,
        "label": conversation.label,
        "messages": [
            {"author": message.author, "time": message.time, "text": message.text}
            for message in conversation.messages
        ],
    }
