"""The roster alone, in memory, on one CPU: merging, and the look-up that admits a peer.

    python -m benchmarks.roster [--rounds 3] [--quick] [--json FILE]

Statements come as bytes and are decoded, judged and checked; then the members are asked for. Beside
it is the time of the bare signature checks of the same statements, in the same turn, which no
roster could do without. Times are CPU time. The roster of a cluster is measured, and full ones of
the kinds that cost most: only admins can make those, apart from that with rotations, which a member
can. Memory is what a fresh process needs more once it has the roster.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache

from benchmarks.common import (
    ROOT,
    Target,
    arguments,
    number,
    progress,
    reference_ms,
    rss_mb,
    table,
    write_json,
)
from bzzz.identity.keys import PrivateKey
from bzzz.trust.roster import Roster
from bzzz.trust.roster_room import MAX_OWN_EACH, MAX_STATEMENTS
from bzzz.trust.statements import (
    Admit,
    Found,
    Rename,
    Revoke,
    Role,
    Rotate,
    SignedStatement,
    decode_statement,
    prove_rotation,
    sign,
    verify,
)

__all__ = ["main"]

TIME = "2026-01-02T03:04:05Z"
MEMBERS = 500

# Look-ups that are timed together.
LOOKUPS = 100_000

# Statements of full rosters in a quick run.
QUICK = 1000

# Statements that come together.
BATCH = 24

# Parents of a statement that joins many.
JOINED = 64

Statements = list[SignedStatement]


@cache
def key(index: int) -> PrivateKey:
    """The key of one of the machines; that of 0 founds the cluster."""
    return PrivateKey.from_seed(index.to_bytes(32, "big"))


def ids(parents: Statements) -> tuple[bytes, ...]:
    """Parents as a statement has them."""
    return tuple(sorted({parent.id for parent in parents}))


def found() -> SignedStatement:
    """The cluster."""
    return sign(key(0), Found(key(0).peer_id, (), TIME, "home", "node-0", bytes(16)))


def admit(by: int, target: int, *parents: SignedStatement, role: Role) -> SignedStatement:
    """An admit; two of one peer with the same parents differ in their author."""
    author = key(by)
    said = (author.peer_id, ids(list(parents)), TIME)
    return sign(author, Admit(*said, key(target).peer_id, f"node-{target}", role))


def revoke(target: int, reason: str, *parents: SignedStatement, by: int = 0) -> SignedStatement:
    """A revoke."""
    author = key(by)
    said = (author.peer_id, ids(list(parents)), TIME)
    return sign(author, Revoke(*said, key(target).peer_id, reason))


def rename(by: int, of: int, name: str, *parents: SignedStatement) -> SignedStatement:
    """An admin, or the machine itself, calls a machine something."""
    author = key(by)
    said = (author.peer_id, ids(list(parents)), TIME)
    return sign(author, Rename(*said, key(of).peer_id, name))


def rotate(by: int, to: int, *parents: SignedStatement) -> SignedStatement:
    """A machine has a new key."""
    author = key(by)
    proof = prove_rotation(key(to), author.peer_id, ids(list(parents)))
    return sign(author, Rotate(author.peer_id, ids(list(parents)), TIME, key(to).peer_id, proof))


# -- what rosters are made of


def chain(count: int) -> Statements:
    """One admin admits one machine after the other."""
    made = [found()]
    for index in range(1, count):
        made.append(admit(0, index, made[-1], role=Role.MEMBER))
    return made


def wide(count: int) -> Statements:
    """All of them at the same time."""
    first = found()
    return [first, *(admit(0, index, first, role=Role.MEMBER) for index in range(1, count))]


def layers(count: int) -> Statements:
    """64 at the same time, each of which knows of the 64 before."""
    made = layer = [found()]
    while len(made) < count:
        start = len(made)
        layer = [
            admit(0, start + index, *layer, role=Role.MEMBER)
            for index in range(min(JOINED, count - start))
        ]
        made = made + layer
    return made


def admins(count: int) -> Statements:
    """Each machine admits the next one."""
    made = [found()]
    for index in range(1, count):
        made.append(admit(index - 1, index, made[-1], role=Role.ADMIN))
    return made


def branches(count: int) -> Statements:
    """In 64 branches admins say things and are revoked in another; then all know of all."""
    part = count // 5
    made = [found()]
    for index in range(1, part + 1):
        made.append(admit(0, index, made[-1], role=Role.ADMIN))
    tips = [[made[-1]] for _ in range(JOINED)]
    for index in range(1, part + 1):
        acting, revoking = tips[index % JOINED], tips[(index * 7 + 3) % JOINED]
        acting.append(admit(index, count + index, acting[-1], role=Role.MEMBER))
        made.append(acting[-1])
        revoking.append(revoke(index, "", revoking[-1]))
        made.append(revoking[-1])
    while len(made) < count:
        turn = len(made)
        some = [tip[-1 - turn * (place + 1) % (len(tip) - 1)] for place, tip in enumerate(tips)]
        made.append(rename(0, 1, f"node-{turn}", *some))
    return made


def ladder(count: int) -> Statements:
    """An admin goes on, and beside each of its statements it is revoked."""
    made = [found(), admit(0, 1, found(), role=Role.ADMIN)]
    step = made[-1]
    while len(made) < count - 1:
        said = admit(1, len(made), step, role=Role.MEMBER)
        made += [said, revoke(1, "", step)]
        step = said
    return made


def comb(count: int) -> Statements:
    """An admin is revoked and admitted again all the time; one that it admitted speaks for each."""
    made = [found()]
    made.append(admit(0, 2, made[-1], role=Role.ADMIN))
    made.append(admit(0, 1, made[-1], role=Role.ADMIN))
    teeth = []
    while len(made) < count * 2 // 3:
        step = made[-1]
        teeth.append(admit(1, 2, step, role=Role.ADMIN))
        made += [teeth[-1], revoke(1, "", step)]
        made.append(admit(0, 1, *made[-2:], role=Role.ADMIN))
    while len(made) < count:
        turn = len(made)
        made.append(rename(2, 0, f"node-{turn}", teeth[-turn % len(teeth)]))
    return made


def rotations(count: int) -> Statements:
    """Members rename themselves in chains, leave and rotate beside that, as much as they may."""
    made = [found()]
    last = made[0]
    for member in range(1, count):
        last = step = admit(0, member, last, role=Role.MEMBER)
        made.append(step)
        for each in range(MAX_OWN_EACH // 3):
            if len(made) > count - 3:
                return made
            said = rename(member, member, f"node-{member}-{each}", step)
            made += [said, revoke(member, "", step, by=member)]
            made.append(rotate(member, count + len(made), step))
            step = said
    return made


CASES: tuple[Callable[[int], Statements], ...] = (
    chain,
    wide,
    layers,
    admins,
    branches,
    ladder,
    comb,
    rotations,
)


# -- measuring


def merge(encoded: list[bytes]) -> tuple[Roster, float]:
    """A roster of them, as they would come from a peer; and the CPU seconds that it took."""
    start = time.process_time()
    roster = Roster.load(encoded[:1])
    for at in range(1, len(encoded), BATCH):
        roster.merge(map(decode_statement, encoded[at : at + BATCH]))
    len(roster.members)
    return roster, time.process_time() - start


def signatures(statements: Statements) -> float:
    """CPU seconds of checking their signatures and nothing else."""
    start = time.process_time()
    for each in statements:
        verify(each)
    return time.process_time() - start


def lookup(roster: Roster) -> float:
    """Microseconds of CPU of one look-up, half of them of peers that are no members."""
    peers = [*roster.members, *(key(1_000_000 + index).peer_id for index in range(MEMBERS))]
    turns = LOOKUPS // len(peers)
    start = time.process_time()
    for _ in range(turns):
        for peer in peers:
            roster.admits(peer)
    return (time.process_time() - start) * 1e6 / (turns * len(peers))


def memory() -> None:
    """Print the megabytes that a roster takes. Runs in a process of its own, which is fed it."""
    encoded = pickle.load(sys.stdin.buffer)
    before = rss_mb(os.getpid())
    roster, _ = merge(encoded)
    print(rss_mb(os.getpid()) - before, len(roster))


def memory_of(encoded: list[bytes]) -> float:
    """The same, asked of that process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.roster", "--memory"],
        cwd=ROOT,
        input=pickle.dumps(encoded),
        stdout=subprocess.PIPE,
        check=True,
    )
    return float(done.stdout.split()[0])


def medians(make: Callable[[int], Statements], count: int, rounds: int) -> dict[str, float]:
    """Of so many rounds: merging, bare signature checks, look-ups; and the memory."""
    statements = make(count)
    encoded = [each.encode() for each in statements]
    assert len(merge(encoded)[0]) == len(statements)
    figures: dict[str, list[float]] = {"merge": [], "signatures": [], "lookup": []}
    for _ in range(rounds):
        roster, seconds = merge(encoded)
        figures["merge"].append(seconds)
        figures["signatures"].append(signatures(statements))
        figures["lookup"].append(lookup(roster))
    figures["mb"] = [memory_of(encoded)]
    return {name: statistics.median(values) for name, values in figures.items()}


def main() -> None:
    """Print the table."""
    assert __doc__ is not None
    parser = arguments(__doc__, 3)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        memory()
        return
    rounds = options.rounds or (1 if options.quick else options.default_rounds)
    full = QUICK if options.quick else MAX_STATEMENTS
    results: dict[str, dict[str, float]] = {"reference": {"ms": reference_ms()}}
    rows = []
    for what, make, count, limit in (
        (f"{MEMBERS} members, from empty", chain, MEMBERS, Target(1, True)),
        *((f"{full}: {each.__name__}", each, full, Target(10, True)) for each in CASES),
    ):
        progress(what)
        figures = medians(make, count, rounds)
        results[what] = figures
        rows.append(
            [
                what,
                number(figures["merge"]),
                number(figures["signatures"]),
                number(figures["mb"]),
                str(limit),
                limit.verdict(figures["merge"]),
            ]
        )
    progress()
    print(table(["", "merge CPU s", "signatures CPU s", "MB", "target", ""], rows))
    limit = Target(5, True)
    seen = results[f"{MEMBERS} members, from empty"]["lookup"]
    print(
        f"\nlook-up of one peer among {MEMBERS} members: {number(seen)} us "
        f"({limit}: {limit.verdict(seen)})"
    )
    for make in CASES:
        print(f"{make.__name__}: {make.__doc__}")
    write_json(options.json, "roster", results)


if __name__ == "__main__":
    main()
