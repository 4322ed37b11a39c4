"""Clusters in the simulator: what owners do to them while the network is at fault, and what holds.

Enters: a simulation whose first nodes are in one cluster. Leaves: a schedule of what admins say,
drawn from the seed; and, when all is healed, what is not as it has to be: every live member has
the same roster to the byte, is linked to all others, or to as many as it may be, and to nobody who
is not on it, knows who they are and talks with each of them about the roster; who is a member knows
it; and what members say then, nobody else hears.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bzzz.errors import BzzzError
from bzzz.testing.faults import Fault
from bzzz.testing.simulation import SimNode, Simulation, link_problems
from bzzz.trust.roster import Roster
from bzzz.trust.statements import Role

__all__ = ["ClusterSimulation"]

# Seconds between two looks for nodes that were admitted and have no roster yet. In life that is
# what pairing does; a member without a roster would link with everybody, as Go nodes do.
ADOPT_EVERY = 0.5

# Kinds of what admins do, with how often.
ACTS = ("admit", "admit", "revoke", "revoke", "role", "rename", "readmit", "leave")


class ClusterSimulation(Simulation):
    """A simulation of one cluster and of nodes outside of it.

    :param members: the nodes that are in it from the beginning, the first ``admins`` of them as
        admins; the others are unclaimed until an admin admits their peer ID.
    """

    def __init__(self, seed: int, nodes: int, members: int, admins: int, **given: Any) -> None:
        # When a node last said something, and when that was last heard, by names and peer IDs.
        self._said: dict[str, float] = {}
        self._heard: dict[tuple[str, str], float] = {}
        self.adopting = True
        super().__init__(seed, nodes, **given)
        self.claim(admins, members)
        self.reactor.callLater(ADOPT_EVERY, self._adopt)
        self._truth: tuple[object, Roster] | None = None
        self._number = 0

    # -- what owners do

    def plan_acts(self, seconds: float, count: int) -> list[Fault]:
        """Plan ``count`` acts of admins within the coming ``seconds``."""
        planned = []
        for _ in range(count):
            delay = self.random.random() * seconds
            what = self.random.choice(ACTS)
            planned.append(Fault(self.reactor.now + delay, what))
            self.reactor.callLater(delay, self._act, what)
        return planned

    def _act(self, what: str) -> None:
        able = [node for node in self.live() if node.cluster is not None and node.cluster.roster]
        if not able:
            return
        node = self.random.choice(able[: max(3, len(able) // 8)])
        cluster = node.cluster
        if cluster is None or cluster.roster is None:
            return
        members = sorted(cluster.roster.members)
        self._number += 1
        name = f"x{self._number}"
        draw = self.random
        work: Any
        if what in {"admit", "readmit"}:
            outside = [
                each.key.peer_id
                for each in self.nodes
                if each.key.peer_id not in cluster.roster.members
                and (what == "readmit") == (each.key.peer_id in cluster.roster.revoked)
            ]
            if not outside:
                return
            work = cluster.admit(draw.choice(outside), name, draw.choice(list(Role)))
        elif what == "revoke":
            work = cluster.revoke(draw.choice(members))
        elif what == "role":
            work = cluster.admit(draw.choice(members), name, draw.choice(list(Role)))
        elif what == "rename":
            work = cluster.rename(draw.choice(members), name)
        else:
            work = self.leave(node)
        self.record(node.name, f"acts: {what}", {})
        Deferred.fromCoroutine(work).addErrback(self._may_not)

    def _adopt(self) -> None:
        """Have those that were admitted join."""
        self.reactor.callLater(ADOPT_EVERY, self._adopt)
        if not self.adopting:
            return
        rosters = [roster for _, roster in self._having()]
        for node in self.live():
            cluster = node.cluster
            if cluster is None or cluster.roster is not None:
                continue
            peer = node.key.peer_id
            roster = next((each for each in rosters if each.admits(peer)), None)
            if roster is not None:
                statements = [each.encode() for each in roster.statements()]
                Deferred.fromCoroutine(cluster.adopt(statements)).addErrback(self._may_not)

    async def leave(self, node: SimNode) -> None:
        mesh, cluster = node.mesh, node.cluster
        if mesh is None or cluster is None or mesh.roster is None:
            return
        await cluster.say_leaving()
        mesh.roster.flush()
        told: Deferred[None] = Deferred()
        node.host.clock.callLater(1.0, told.callback, None)
        await told
        await cluster.forget()

    def _may_not(self, failure: Failure) -> None:
        """Most nodes are no admins, and some are none any more."""
        if failure.check(BzzzError) is None:
            self.failed(failure)

    def record(self, node: str, event: str, fields: dict[str, Any]) -> None:
        """See :class:`Simulation`."""
        direction = fields.get("direction")
        if direction == "sent":
            self._said[node] = self.reactor.now
        elif direction == "received":
            self._heard[node, str(fields.get("peer_id"))] = self.reactor.now
        super().record(node, event, fields)

    # -- what has to hold

    def truth(self) -> Roster:
        """The roster of all statements that live members have.

        What only a dead node has, or one that was revoked, no member can know of.
        """
        having = [(node.key.peer_id, roster) for node, roster in self._having()]
        heads = tuple((peer, roster.heads) for peer, roster in having)
        if self._truth is not None and self._truth[0] == heads:
            return self._truth[1]
        while True:
            distinct = {roster.heads: roster for _, roster in having}
            merged = next(iter(distinct.values())).copy()
            for roster in distinct.values():
                merged.merge(roster.statements())
            members = [(peer, roster) for peer, roster in having if merged.admits(peer)]
            if len(members) == len(having):
                break
            having = members
        self._truth = (heads, merged)
        return merged

    def _having(self) -> list[tuple[SimNode, Roster]]:
        """The live nodes that have a roster and are on it, as far as they know."""
        return [
            (node, node.cluster.roster)
            for node in self.live()
            if node.cluster is not None
            and node.cluster.roster is not None
            and not node.cluster.admission.is_revoked
        ]

    def problems(self, most: int = 20) -> list[str]:
        """See :class:`Simulation`; and of the rosters."""
        truth = self.truth()
        members = truth.members
        found = [
            *self.failures,
            *(
                f"{node.name} is a member and believes that it was revoked"
                for node in self.live()
                if node.key.peer_id in members
                and node.cluster is not None
                and node.cluster.admission.is_revoked
            ),
        ]
        wanted = _bytes(truth)
        having = [(node, roster) for node, roster in self._having() if node.key.peer_id in members]
        live = [node for node, _ in having]
        for node, roster in having:
            if _bytes(roster) != wanted:
                found.append(f"{node.name} has another roster")
        if found:
            return found[:most]
        names = {node.key.peer_id: node.name for node in self.nodes}
        ours = {node.key.peer_id for node in live}
        found = link_problems(live, self.max_links)[:most]
        for node in live:
            mesh = node.mesh
            if mesh is None or mesh.roster is None:
                continue
            linked = set(mesh.swarm.links)
            heard = set(mesh.broadcasts.documents)
            others = ours - {node.key.peer_id}
            for what, peers in (
                ("does not talk of the roster with", (linked & ours) - set(mesh.roster.talking)),
                ("is linked to, and should not be,", linked - set(members)),
                ("has not heard what can do", others - heard),
                ("remembers", heard - set(members)),
            ):
                for peer in sorted(peers)[: most - len(found)]:
                    found.append(f"{node.name} {what} {names.get(peer, str(peer))}")
        return found[:most]

    def leaks(self, since: float) -> list[str]:
        """Messages that members sent after this moment, and that reached one who is none."""
        names = {str(node.key.peer_id): node.name for node in self.nodes}
        members = {
            str(peer)
            for peer in self.truth().members
            if self._said.get(names[str(peer)], 0.0) >= since
        }
        outside = {node.name for node in self.outsiders()}
        return [
            f"{node} heard {peer} at {at:.3f}"
            for (node, peer), at in self._heard.items()
            if node in outside and peer in members and at >= max(since, self._said[names[peer]])
        ]

    def outsiders(self) -> Sequence[SimNode]:
        """The live nodes that are no members."""
        members = self.truth().members
        return [node for node in self.live() if node.key.peer_id not in members]


def _bytes(roster: Roster) -> bytes:
    return b"".join(each.encode() for each in roster.statements())
