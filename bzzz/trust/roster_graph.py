"""Which statements are before which: the graph that their parents make.

Enters: IDs, each after those of its parents. Leaves: sets of statements. A set is an int that has
bit *n* for the *n*-th statement that came here, so that sets of thousands are joined and compared
in a microsecond; the numbers mean nothing to other nodes. docs/trust.rst, "The roster".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from bzzz.trust.statements import StatementID

__all__ = ["Graph", "numbers_in"]


def numbers_in(statements: int) -> Iterator[int]:
    """The numbers in a set, ascending."""
    digits = f"{statements:b}"[::-1]  # searching a text is much faster than shifting the int
    number = digits.find("1")
    while number >= 0:
        yield number
        number = digits.find("1", number + 1)


class Graph:
    """Statements by number.

    :ivar ids: of each.
    :ivar before: the set of those before each.
    :ivar generations: 0 for the first; of any other one more than the greatest of its parents'.
    :ivar everything: the set of all.
    """

    __slots__ = (
        "_heads",
        "_numbers",
        "_sorted_heads",
        "before",
        "everything",
        "generations",
        "ids",
    )

    def __init__(self) -> None:
        self.ids: list[StatementID] = []
        self.before: list[int] = []
        self.generations: list[int] = []
        self.everything = 0
        self._numbers: dict[StatementID, int] = {}
        self._heads: set[int] = set()
        self._sorted_heads: tuple[StatementID, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, statement: object) -> bool:
        return statement in self._numbers

    def copy(self) -> Graph:
        """Another that grows by itself."""
        other = Graph()
        other.ids = self.ids.copy()
        other.before = self.before.copy()
        other.generations = self.generations.copy()
        other.everything = self.everything
        other._numbers = self._numbers.copy()
        other._heads = self._heads.copy()
        other._sorted_heads = self._sorted_heads
        return other

    @property
    def heads(self) -> tuple[StatementID, ...]:
        """Those before no other one, sorted."""
        if self._sorted_heads is None:
            self._sorted_heads = tuple(sorted(self.ids[head] for head in self._heads))
        return self._sorted_heads

    def missing(self, statements: Iterable[StatementID]) -> tuple[StatementID, ...]:
        """Those that are not here."""
        return tuple(each for each in statements if each not in self._numbers)

    def numbers(self, statements: Collection[StatementID]) -> list[int]:
        """The numbers of statements that are here."""
        return [self._numbers[each] for each in statements]

    def up_to(self, number: int) -> int:
        """The set of a statement and those before it."""
        return self.before[number] | 1 << number

    def up_to_any(self, numbers: Iterable[int]) -> int:
        """The set of statements and those before them."""
        found = 0
        for number in numbers:
            found |= self.up_to(number)
        return found

    def known(self, statements: Iterable[StatementID]) -> int:
        """The same of those that are here, by their IDs; others are left out."""
        numbers = self._numbers
        return self.up_to_any(numbers[each] for each in statements if each in numbers)

    def add(self, statement: StatementID, parents: Sequence[int], before: int) -> int:
        """Enter a statement; its number.

        :param before: the parents and those before them.
        """
        number = len(self.ids)
        self.ids.append(statement)
        self.before.append(before)
        self.generations.append(1 + max((self.generations[each] for each in parents), default=-1))
        self.everything |= 1 << number
        self._numbers[statement] = number
        self._heads.difference_update(parents)
        self._heads.add(number)
        self._sorted_heads = None
        return number

    def in_order(self, statements: int) -> list[int]:
        """A set in the order that is the same everywhere: by generation, then by ID.

        None comes before one of its parents.
        """
        return sorted(numbers_in(statements), key=lambda n: (self.generations[n], self.ids[n]))

    def _heads_of(self, statements: int) -> list[int]:
        """Those of a set that has all that is before each, that are before no other of it."""
        covered = 0
        for number in numbers_in(statements):
            covered |= self.before[number]
        return list(numbers_in(statements & ~covered))

    def newest(self, numbers: Iterable[int]) -> int:
        """The one of the last generation; of several the one with the smallest ID."""
        return min(numbers, key=lambda n: (-self.generations[n], self.ids[n]))

    def heads_over(
        self, statements: int, most: int, but: int = 0
    ) -> tuple[StatementID, ...] | None:
        """At most so many heads, sorted, so that all of a set are before or among them.

        Other heads take the rest of the places, the newest first.

        :param but: a set to do without, but for those that are before others that are wanted.
        :return: None where so many are not enough.
        """
        heads: Collection[int] = self._heads
        if but:
            heads = self._heads_of(self.up_to_any(numbers_in(self.everything & ~but | statements)))
        if len(heads) <= most:
            return tuple(sorted(self.ids[head] for head in heads))
        ordered = sorted(heads, key=lambda n: (-self.generations[n], self.ids[n]))
        chosen = []
        for head in ordered:
            if statements & self.up_to(head):
                statements &= ~self.up_to(head)
                chosen.append(head)
        if len(chosen) > most:
            return None
        taken = set(chosen)
        chosen += [head for head in ordered if head not in taken][: most - len(chosen)]
        return tuple(sorted(self.ids[head] for head in chosen))
