"""What a roster has about one peer and by it, as sets of statements (:mod:`.roster_graph`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

__all__ = ["PeerStatements", "Standing"]


@dataclass(frozen=True, slots=True)
class Standing:
    """What a peer is by some set of statements.

    :ivar counting: the admits that make it a member, by number; none if it is no member.
    :ivar rights: those that all of them give.
    :ivar stands_on: what they stand on.
    :ivar void: of what any statement about it stands on, what is void for a reason of its own.
    """

    counting: tuple[int, ...]
    rights: int
    stands_on: int
    void: int


@dataclass(slots=True)
class PeerStatements:
    """The statements about and by one peer, as sets.

    :ivar admits: of it, by the rights they give.
    :ivar admitted: all of these.
    :ivar revokes: of it.
    :ivar renames: of it.
    :ivar stands_on: what the admits of it stand on.
    :ivar renames_on: what the renames of it stand on.
    :ivar acts: its own statements that can be void, by the rights they need.
    :ivar acted: all of these.
    :ivar grounds: those of them that others may stand on, which is all but renames.
    :ivar reasons: pairs of reasons and those of the grounds that have them. A reason that has
        another one before it is not always there, because a set with it has the other, too; and
        what counts as a revoke of its own author may be there although it is no reason for itself.
    :ivar last: the last standing that was asked for, by what it depends on.
    """

    admits: dict[int, int] = field(default_factory=dict)
    admitted: int = 0
    revokes: int = 0
    renames: int = 0
    stands_on: int = 0
    renames_on: int = 0
    acts: dict[int, int] = field(default_factory=dict)
    acted: int = 0
    grounds: int = 0
    reasons: list[tuple[int, int]] = field(default_factory=list)
    last: tuple[tuple[int, int, int], Standing] | None = None

    def copy(self) -> PeerStatements:
        return replace(
            self, admits=self.admits.copy(), acts=self.acts.copy(), reasons=self.reasons.copy()
        )

    def threatened(self, rights: int) -> int:
        """The acts that need more than these rights."""
        found = 0
        for need, acts in self.acts.items():
            if need & ~rights:
                found |= acts
        return found

    def threats(self, need: int) -> int:
        """What makes an act void that needs these rights, if it is concurrent with it."""
        found = self.revokes
        for rights, admits in self.admits.items():
            if need & ~rights:
                found |= admits
        return found
