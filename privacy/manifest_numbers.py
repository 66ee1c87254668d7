"""A manifest in numbers: what checking again how much each person counts needs, without a string for anybody."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ringfence.privacy.talk_graph import Numbers


@dataclass(frozen=True, slots=True, eq=False)
class ManifestNumbers:
    """The rows of a manifest.

    Attributes:
        conversations: (n,) int64; equal numbers for equal pseudonyms, and only for those.
        starts: (n + 1,) int64, where each row's people begin in ``people``, and where the last one's end.
        people: (memberships,) int64; equal numbers for equal pseudonyms, and only for those; below the number of people.
        weights: (n,) float64.
        examples: (n,) int64, the number of the conversation whose pseudonym names the row's example.
    """

    conversations: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    people: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    examples: npt.NDArray[np.int64]

    def a_conversation_repeats(self) -> bool:
        """Return whether two rows have one pseudonym."""
        return _repeats(self.conversations)

    def a_row_lacks_people(self) -> bool:
        """Return whether a row belongs to nobody, or twice to one person."""
        sizes = np.diff(self.starts)
        if not sizes.all():
            return True
        rows = np.repeat(np.arange(len(sizes)), sizes)
        order = np.lexsort((self.people, rows))
        people, rows = self.people[order], rows[order]
        return bool(((people[1:] == people[:-1]) & (rows[1:] == rows[:-1])).any())

    def an_example_is_in_pieces(self) -> bool:
        """Return whether rows of one example lie apart."""
        return _repeats(self.examples[_starts_of_runs(self.examples)])

    def largest_contribution(self) -> float:
        """Return the most that any one person counts for; 0 without rows. See `ContributionManifest`."""
        person, example, weight = self._memberships()
        sizes = sizes_of_runs(self.examples)
        pairs = _Pairs.of(person, example)
        own = np.bincount(pairs.number, weights=weight[pairs.order], minlength=len(pairs.person))
        count = np.bincount(pairs.number, minlength=len(pairs.person))
        most = np.where(count == sizes[pairs.example], 1.0, 2.0)
        totals = np.bincount(pairs.person, weights=np.minimum(own, most))
        return float(totals.max(initial=0.0))

    def most_examples(self) -> int:
        """Return the largest number of examples that any one person is in; 0 without rows."""
        person, example, _ = self._memberships()
        return int(np.bincount(_Pairs.of(person, example).person).max(initial=0))

    def _memberships(
        self,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return person, example and weight of each membership, in the order of the rows."""
        sizes = np.diff(self.starts)
        example = np.repeat(
            np.arange(len(sizes)), sizes
        )  # first the row, then the run of rows that it lies in
        weight = self.weights[example]
        if len(sizes):
            runs = np.zeros(len(sizes), dtype=np.int64)
            runs[_starts_of_runs(self.examples)[1:]] = 1
            example = np.cumsum(runs)[example]
        return self.people, example, weight


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Who is in which example.

    Attributes:
        order: of the memberships, by person and example, otherwise as given.
        number: of the pair that each membership in that order belongs to.
        person: of each pair.
        example: of each pair.
    """

    order: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    person: npt.NDArray[np.int64]
    example: npt.NDArray[np.int64]

    @classmethod
    def of(cls, person: npt.NDArray[np.int64], example: npt.NDArray[np.int64]) -> _Pairs:
        order = np.lexsort((example, person))
        person, example = person[order], example[order]
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = (person[1:] != person[:-1]) | (example[1:] != example[:-1])
        return cls(order, np.cumsum(first) - 1, person[first], example[first])


def sizes_of_runs(numbers: Numbers) -> npt.NDArray[np.int64]:
    """Return the lengths of the runs of equal numbers that follow each other, int64."""
    return np.diff(np.append(_starts_of_runs(numbers), len(numbers)))


def _starts_of_runs(numbers: Numbers) -> npt.NDArray[np.int64]:
    first = np.ones(len(numbers), dtype=np.bool_)
    first[1:] = numbers[1:] != numbers[:-1]
    return np.flatnonzero(first)


def _repeats(numbers: npt.NDArray[np.int64]) -> bool:
    ascending = np.sort(numbers)
    return bool((ascending[1:] == ascending[:-1]).any())
