"""Many tasks that are submitted by one question."""

from __future__ import annotations

import base64
from typing import Any

from bzzz.tasks.executors.interfaces import Ending, Over
from bzzz.tasks.record import Produced
from bzzz.web import many_routes, stream
from tests.web.test_api import Exchange
from tests.web.test_task_routes import RUN, TaskRouteCase


class ManyTests(TaskRouteCase):
    """One node, alone, that runs four tasks at a time."""

    def many(self, *wanted: dict[str, Any]) -> Exchange:
        return self.ask("POST", "tasks/many", {"tasks": [{**RUN, **each} for each in wanted]})

    def told(self, exchange: Exchange) -> dict[int, list[str]]:
        told: dict[int, list[str]] = {}
        for line in exchange.lines():
            told.setdefault(line["place"], []).append(line["event"])
        return told

    def end_all(self, exit_status: int = 0) -> None:
        self.run_for(0.3)
        for key in list(self.executor.runs):
            self.executor.end(key, Over(Ending.EXITED, exit_status))
        self.run_for(0.3)

    def test_all(self) -> None:
        """Each is told of by its place, and the answer ends with the last of them."""
        answer = self.many({}, {"follow": False}, {"where": "os =="}, {"cpus": 99})
        self.run_for(0.2)
        self.assertEqual(
            self.told(answer),
            {0: ["id", "kept"], 1: ["id", "kept"], 2: ["refused"], 3: ["refused"]},
        )
        codes = [line["code"] for line in answer.lines() if line["event"] == "refused"]
        self.assertEqual(codes, ["bad_requirement", "unplaceable"])
        self.assertFalse(answer.ended)
        self.end_all(3)
        last = answer.lines()[-1]
        self.assertEqual((last["event"], last["place"]), ("ended", 0))
        self.assertEqual(
            (last["task"]["exit_status"], last["task"]["submitter"]), (3, "4000000000")
        )
        self.assertTrue(answer.ended)
        self.assertEqual(self.service.watched, 0)

    def test_at_once(self) -> None:
        """No more than some are under way, and the next begins when one has ended."""
        self.patch(many_routes, "AT_ONCE", 2)
        answer = self.many(*({} for _ in range(5)))
        for ended in (0, 2, 4):
            self.run_for(0.3)
            self.assertEqual(len(self.told(answer)), min(ended + 2, 5))
            self.end_all()
        self.assertTrue(answer.ended)
        self.assertEqual({each[-1] for each in self.told(answer).values()}, {"ended"})

    def test_output(self) -> None:
        """What a task has printed is told with its end: of its record, or of who has more."""
        self.workspace.produced = Produced(b"out", b"er", 3, 2)
        answer = self.many({})
        self.end_all()
        lines = [line for line in answer.lines() if "data" in line]
        self.assertEqual(
            [(line["event"], base64.b64decode(line["data"])) for line in lines],
            [("stdout", b"out"), ("stderr", b"er")],
        )
        self.assertEqual(self.outputs.asked, [])
        self.workspace.produced = Produced(b"out", b"", 9000, 0)
        self.outputs.parts = [(1, b"long")]
        answer = self.many({})
        self.end_all()
        self.assertEqual(len(self.outputs.asked), 1)
        self.assertEqual(self.told(answer), {0: ["id", "kept", "stdout", "ended"]})

    def test_hung_up(self) -> None:
        """Who hangs up ends the telling. What has not begun is not submitted, the rest goes on."""
        self.patch(many_routes, "AT_ONCE", 1)
        answer = self.many({}, {})
        self.run_for(0.3)
        answer.disconnect()
        self.end_all()
        self.assertEqual(len(self.disk.kept), 1)
        self.assertEqual(self.service.watched, 0)

    def test_slow_client(self) -> None:
        """What is refused, or not followed, waits for the client as ends do."""
        self.patch(many_routes, "AT_ONCE", 2)
        self.patch(stream, "MAX_WRITE", 2000)
        self.patch(stream, "MAX_QUEUED_BYTES", 20_000)
        answer = self.many(*({"where": "os =="} for _ in range(150)), {"follow": False})
        producer: Any = answer.transport.producer
        producer.pauseProducing()
        self.run_for(5.0)
        producer.resumeProducing()
        self.run_for(5.0)
        told = self.told(answer)
        self.assertEqual((len(told), told[0], told[150]), (151, ["refused"], ["id", "kept"]))
        self.assertTrue(answer.ended)

    def test_missed(self) -> None:
        """An end that was settled unheard is found."""
        answer = self.many({})
        self.run_for(0.3)
        watching = self.service._watching
        watchers, watching._of = watching._of, {}
        self.end_all()
        self.assertFalse(answer.ended)
        watching._of = watchers
        self.run_for(1.5)
        self.assertTrue(answer.ended)

    def test_bad_bodies(self) -> None:
        """The fields of each are looked at before anything is done."""
        bodies: list[dict[str, Any]] = [{}, {"tasks": []}, {"tasks": [{}]}]
        for body in (*bodies, {"tasks": [{**RUN, "cpu": 1}]}):
            answer = self.ask("POST", "tasks/many", body)
            self.assertEqual(self.refused(answer), (400, "bad_body"), body)
        answer = self.ask("POST", "tasks/many", {"tasks": [RUN]}, by=None)
        self.assertEqual(self.refused(answer), (403, "not_allowed"))
        self.assertEqual(self.disk.kept, {})
