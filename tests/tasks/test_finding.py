"""Workflows that others keep: they are found, and changed, where they are."""

from __future__ import annotations

from typing import Any

import msgspec

from bzzz.net.calls import AnswerLost
from bzzz.tasks.finding import NoSuchTask
from bzzz.tasks.messages import Cancel, Done, Failed, Find, Found, Retry
from bzzz.tasks.workflows.record import WorkflowRecord, encode_workflow, sign_workflow
from tests.tasks.fakes import key, peer
from tests.tasks.test_service import TASK, OwnerCase
from tests.tasks.workflows.test_record import record, submitted


class WorkflowCase(OwnerCase):
    """Hazel, which keeps none."""

    def find(self) -> Any:
        return self.wait(self.service.find_workflow(TASK))

    def shown(self, made: WorkflowRecord) -> Found:
        return Found(encode_workflow(made))

    def others(self, **answers: Any) -> None:
        """These answer so, and the others have nothing."""
        for asked in self.peers.take(Find):
            answer = next(
                (said for machine, said in answers.items() if peer(machine) == asked.peer),
                Found(None),
            )
            if isinstance(answer, Exception):
                asked.answer.errback(answer)
            else:
                asked.answer.callback(answer)


class FindWorkflowTests(WorkflowCase):
    """``find_workflow``."""

    def test_newest(self) -> None:
        """The newest that a member has, whoever does not answer."""
        finding = self.find()
        self.others(
            walnut=self.shown(record(submitted(), version=1)),
            ironwood=self.shown(record(submitted(), version=4)),
            acacia=AnswerLost("the link was lost"),
        )
        self.assertEqual(self.successResultOf(finding).version, 4)

    def test_none(self) -> None:
        """Where nobody has it, there is none; nobody is asked for what is no ID."""
        finding = self.find()
        self.others()
        self.assertIsNone(self.successResultOf(finding))
        self.assertIsNone(self.successResultOf(self.wait(self.service.find_workflow("X"))))
        self.assertEqual(self.peers.asked, [])

    def test_wrong(self) -> None:
        """What is no record of it, forged, or not the member's to tell, counts for nothing."""
        made = record(submitted())
        forged = sign_workflow(made.submission, key("hazel"))
        another = record(submitted(workflow="0" * 26))
        elsewhere = (str(peer("walnut")), str(peer("larch")))
        for wrong in (
            Found(b"\x93"),
            Found(b"\x93\xc1"),
            Done(),
            Failed("the disk is full"),
            self.shown(msgspec.structs.replace(made, signed=forged)),
            self.shown(another),
            self.shown(record(submitted(replicas=elsewhere))),
        ):
            finding = self.find()
            self.others(ironwood=wrong)
            self.assertIsNone(self.successResultOf(finding), wrong)


class ChangeWorkflowTests(WorkflowCase):
    """``change_workflow``."""

    def test_first_that_can(self) -> None:
        """Its replicas are asked one after the other."""
        for request in (Cancel(TASK), Retry(TASK, 0)):
            changing = self.wait(self.service.change_workflow(record(submitted()), request))
            self.told("walnut", Failed("the disk is full"))
            self.assertNoResult(changing)
            self.told("ironwood", Done())
            self.successResultOf(changing)
            self.assertEqual(self.peers.asked, [])

    def test_none(self) -> None:
        """Where none can, what each has said is told."""
        changing = self.wait(self.service.change_workflow(record(submitted()), Cancel(TASK)))
        self.told("walnut", Failed("the disk is full"))
        self.peers.lose("ironwood")
        self.told("acacia", Failed("it is starting"))
        said = self.failureResultOf(changing, NoSuchTask).getErrorMessage()
        for words in ("the disk is full", "the link was lost", "it is starting"):
            self.assertIn(words, said)
