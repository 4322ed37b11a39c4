"""Submitting tasks for who asks over the control socket.

Enters: what somebody wants. Leaves: submissions, and why there is none. The errors' codes are in
:mod:`bzzz.web.task_routes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Final

from msgspec import Meta

from bzzz.tasks.executors.keeper_exec import PROFILES
from bzzz.tasks.holding import Copied
from bzzz.tasks.placement import Candidate, Unfit
from bzzz.tasks.placing import Placing
from bzzz.tasks.registers import NoMajority
from bzzz.tasks.requirements import RequirementError
from bzzz.tasks.requirements import compile as compile_requirement
from bzzz.tasks.service import TaskService
from bzzz.tasks.submission import (
    Cores,
    Count,
    Gpus,
    Input,
    Priority,
    Retries,
    Submission,
    SubmissionError,
    Timeout,
)
from bzzz.tasks.value import TaskRecord
from bzzz.web.requests import Body, Refusal
from bzzz.web.task_schema import NodeVerdict, UnfitInfo

__all__ = ["Submitting", "Wanted", "wrong_profile"]

# Nodes whose reasons an error tells.
MAX_TOLD: Final = 10


class Wanted(Body, frozen=True):
    """A task that somebody wants, and that becomes a :class:`~bzzz.tasks.submission.Submission`.

    :ivar command: its words; no shell is between.
    :ivar name: what to call it.
    :ivar env: variables beside those that every task has.
    :ivar where: a CEL expression over what a machine can do, "" for any.
    :ivar on: a member by its name, its short ID or its peer ID, "" for any.
    :ivar cpus: cores that are taken for it.
    :ivar memory: bytes that are taken for it, and that it may have; 0 for none counted.
    :ivar gpus: graphics processors that it has for itself.
    :ivar timeout: seconds after which an attempt is ended, 0 for none.
    :ivar retries: how often it may fail, and is run again.
    :ivar restart: whether it is run again when its machine is lost.
    :ivar priority: the greater is first.
    :ivar profile: its sandbox.
    :ivar inputs: what is there before it begins: for each its path, and the digest and the size of
        its manifest, whose chunks this node has.
    :ivar outputs: globs of what is kept when it has ended.
    :ivar wait: whether it is to wait for a machine that could run it, where there is none now.
    :ivar follow: whether to tell until it has ended.
    """

    command: Annotated[tuple[str, ...], Meta(min_length=1)]
    name: str = ""
    env: Mapping[str, str] = {}
    where: str = ""
    on: str = ""
    cpus: Cores = 1.0
    memory: Count = 0
    gpus: Gpus = 0
    timeout: Timeout = 0.0
    retries: Retries = 0
    restart: bool = True
    priority: Priority = 0
    profile: str = "default"
    inputs: tuple[Input, ...] = ()
    outputs: tuple[str, ...] = ()
    wait: bool = False
    follow: bool = True


class Submitting:
    """Submits tasks.

    :param find_node: the peer ID of a member that somebody means; raises Refusal.
    :param name_of: what the member with a peer ID is called.
    :param workers: peer IDs of the members whose role lets them run tasks.
    """

    def __init__(
        self,
        service: TaskService,
        placing: Placing,
        find_node: Callable[[str], str],
        name_of: Callable[[str], str],
        workers: Callable[[], Iterable[str]],
    ) -> None:
        self._service = service
        self._placing = placing
        self._find_node = find_node
        self._name_of = name_of
        self._workers = workers

    async def submit(
        self,
        wanted: Submission,
        copied: Copied = lambda peer, done, total: None,
    ) -> TaskRecord:
        """Submit a task; it is durable when this returns.

        :param wanted: of :meth:`submission`.
        :raises Refusal: it was not submitted, or it is not known whether it was.
        """
        try:
            return await self._service.submit(wanted, self._placing.suggest(wanted), copied)
        except SubmissionError as error:
            raise Refusal(400, "not_submitted", str(error)) from None
        except NoMajority as error:
            raise Refusal(
                503,
                "unknown",
                f"it is not known whether the task was submitted: {error}. To see whether it was:"
                f" bzzz task {wanted.task}",
            ) from None

    def submission(self, body: Wanted, user: str) -> Submission:
        """What is wanted, with an ID; who keeps it is not chosen yet.

        :param user: who wants it.
        :raises Refusal: it cannot be.
        """
        try:
            compile_requirement(body.where)
        except RequirementError as error:
            raise Refusal(400, "bad_requirement", str(error)) from None
        wrong = wrong_profile(body.profile)
        if wrong:
            raise Refusal(400, "bad_profile", wrong)
        own = str(self._service.own)
        return Submission(
            task=self._service.new_id(),
            origin=own,
            replicas=(own,),
            command=body.command,
            name=body.name,
            env=dict(body.env),
            where=body.where,
            on=self._find_node(body.on) if body.on else "",
            cpus=body.cpus,
            memory=body.memory,
            gpus=body.gpus,
            timeout=body.timeout,
            retries=body.retries,
            restart=body.restart,
            priority=body.priority,
            profile=body.profile,
            inputs=body.inputs,
            outputs=body.outputs,
            submitter=user,
        )

    def see_that_it_can_run(self, wanted: Submission) -> None:
        """Refuse what no node could run even with nothing else to do.

        :raises Refusal: it is so; tells what each lacks.
        """
        if self._placing.could_run(wanted):
            return
        if wanted.on and not self._placing.knows(wanted.on):
            raise Refusal(
                409,
                "unplaceable",
                f"{self._name_of(wanted.on)} is not linked with this node, or has not said yet what"
                " it can do: see bzzz peers. To have the task wait for it: --wait",
            )
        # Of others, where one is meant, there is nothing to tell.
        reasons = [
            f"{verdict.name}: {'; '.join(unfit.text for unfit in verdict.unfit if unfit.never)}"
            for verdict in self.verdicts(wanted)
            if wanted.on in ("", verdict.peer_id)
        ]
        more = len(reasons) - MAX_TOLD
        told = "\n".join(reasons[:MAX_TOLD]) or "no node that runs tasks is known"
        first = "it cannot run there" if wanted.on else "no node that is linked could run it"
        raise Refusal(
            409,
            "unplaceable",
            f"{first}:\n{told}"
            + (f"\nand {more} more" if more > 0 else "")
            + "\nTo have it wait until one can: --wait",
        )

    def verdicts(self, wanted: Submission) -> list[NodeVerdict]:
        """For every node, what it lacks."""
        judged = sorted(self._placing.why(wanted), key=lambda each: each[0].name)
        return [_verdict(candidate, unfits) for candidate, unfits in judged]

    def away(self) -> list[str]:
        """The names of members that run tasks, and of which it is not known whether they could run
        one: they are not linked, or have not said yet what they can do."""
        return sorted(
            self._name_of(each) for each in self._workers() if not self._placing.knows(each)
        )


def wrong_profile(name: str) -> str | None:
    """What is wrong with the name of a profile; None where nothing is."""
    if name in PROFILES:
        return None
    return f"there is no profile '{name}', but {', '.join(PROFILES)}"


def _verdict(candidate: Candidate, unfits: Sequence[Unfit]) -> NodeVerdict:
    return NodeVerdict(
        peer_id=candidate.peer,
        name=candidate.name,
        fits=not unfits,
        unfit=[UnfitInfo(code=unfit.code, text=unfit.text, never=unfit.never) for unfit in unfits],
    )
