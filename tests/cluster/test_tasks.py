"""Tasks on three machines with a real systemd: run everywhere, and whatever fails.

Each test finds the machines of :mod:`tests.cluster.home` meshed, and leaves them so. What a test
waits for it sees from outside (:mod:`tests.cluster.tasks`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from bzzz.client import Task, TaskInfo
from tests.cluster.home import PATIENCE, home
from tests.cluster.machine import Machine, Ran
from tests.cluster.machines import without_machines
from tests.cluster.netns import until
from tests.cluster.service import ServiceTestCase, ask, invite, log, with_journals
from tests.cluster.tasks import (
    Beats,
    beating,
    beats,
    fits,
    kill,
    node,
    processes,
    verdicts,
)
from tests.needs import needs

T = TypeVar("T")

# What is promised, in seconds. A lease is 3, and its kill is done 0.3 later (docs/tasks.rst).
MOVED_WITHIN = 5.0
ENDED_WITHIN = 3.3
# SIGKILL comes 10 after SIGTERM.
CANCELLED_WITHIN = 11.0

# Seconds for which a machine is cut off: its links are gone and the lease is long over.
CUT_OFF = 60.0

# Seconds that an attempt runs for of which another is to take over.
LONG = 5.0

CONFIG = "/etc/bzzz/bzzz.toml"
FILE = "/root/three.toml"

# Three steps, each on another machine. The second gets a directory of the first and leaves one.
WORKFLOW = '''
name = "three"

[steps.list]
in = ["seed.txt"]
on = "walnut"
run = "mkdir -p lists && sort seed.txt >lists/sorted.txt && uname -n >lists/where.txt"
out = ["lists/*"]

[steps.count]
needs = ["list"]
on = "ironwood"
run = """
mkdir -p counts/deep
wc -l <lists/sorted.txt >counts/deep/count.txt
uname -n >counts/where
"""
out = ["counts"]

[steps.tell]
needs = ["list", "count"]
on = "acacia"
run = "cat lists/where.txt counts/where lists/*d.txt counts/deep/count.txt && uname -n >here.txt"
out = ["here.txt"]
'''

# Forks twenty that ignore SIGTERM, as do all that these start: one in a session of its own, and one
# without the task's variables.
FORKS = """
trap '' TERM
for number in $(seq 18); do (sleep 1000; :) & done
setsid sh -c 'sleep 1000; :' &
env -i sh -c 'sleep 1000; :' "$BZZZ_TASK" &
wait
"""


def together(calls: Iterable[Callable[[], T]]) -> list[T]:
    """What these return, called at the same time."""
    with ThreadPoolExecutor() as pool:
        return [each.result() for each in [pool.submit(call) for call in calls]]


def ends(info: TaskInfo) -> list[tuple[int, str]]:
    """The tokens of a task's attempts, and how each ended."""
    return [(each.token, each.end) for each in info.attempts]


@needs(without_machines())
@with_journals
class TaskTests(ServiceTestCase):
    """Three members, and one machine that is none."""

    def setUp(self) -> None:
        self.walnut, self.ironwood, self.acacia, self.elm = home().service.all
        self.members = (self.walnut, self.ironwood, self.acacia)
        self.until_ready()
        self.addCleanup(self.assert_no_errors, time.time())

    # -- what several tests do

    def assert_no_errors(self, since: float) -> None:
        """No node has called anything an error."""
        machines = (*self.members, self.elm)
        logs = together(partial(log, each, since, "-p", "err") for each in machines)
        self.assertEqual(logs, [""] * len(machines))

    def until_ready(self) -> None:
        """Wait until each of three would give a task to each of them."""
        names = sorted(each.name for each in self.members)
        for machine in self.members:
            what = f"{machine.name} gives tasks to all"
            until(lambda one=machine: fits(one) == names, PATIENCE, what, 0.1)  # type: ignore[misc]  # bound at once

    def tell(self, what: str) -> None:
        """Print something that was measured and has no limit."""
        print(f"\n      {what}", end=" ", flush=True)

    def bzzz(self, machine: Machine, *arguments: str, stdin: str = "") -> Ran:
        """What a command of ``bzzz`` says in a machine, however it ends."""
        return machine.run("bzzz", *arguments, check=False, stdin=stdin, timeout=PATIENCE)

    def others(self, machine: Machine) -> list[Machine]:
        return [each for each in self.members if each is not machine]

    def submit_to(self, worker: Machine, spare: Machine, seconds: float) -> Task:
        """Submit a task that tells when it is alive, on walnut; returns when it runs on one
        machine, and would run on another one if that were lost."""
        node(spare).drain()
        self.addCleanup(node(spare).undrain)
        what = f"walnut knows that {spare.name} drains"
        until(lambda: spare.name not in fits(self.walnut), PATIENCE, what, 0.02)
        where = f'name in ["{worker.name}", "{spare.name}"]'
        task = node(self.walnut).submit(beating(seconds), where=where)
        self.until_beats(task, worker, 1)
        node(spare).undrain()
        self.until_ready()
        return task

    def until_beats(self, task: Task, machine: Machine, token: int) -> Beats:
        """Wait until an attempt runs on a machine."""
        what = f"attempt {token} of {task.id} runs on {machine.name}"
        return until(lambda: beats(machine, task.id, token), PATIENCE, what, 0.02)

    def told(self, machine: Machine, task: Task, token: int) -> Beats:
        """What an attempt has told, which has."""
        found = beats(machine, task.id, token)
        assert found is not None
        return found

    def assert_recorded_once(self, task: Task, attempts: list[tuple[int, str]]) -> None:
        """Each member has the same record of a task, with one result, or will have it soon."""
        began = time.monotonic()
        for machine in self.members:
            known = node(machine).task(task.id)
            info = until(
                lambda known=known: found if (found := known.info()).has_ended else None,  # type: ignore[misc]  # bound at once
                PATIENCE,
                f"{machine.name} knows the task's end",
                0.02,
            )
            self.assertEqual((info.state, info.exit_status, ends(info)), ("done", 0, attempts))
            self.assertEqual((info.token, info.worker), (attempts[-1][0], task.info().worker))
        self.tell(f"all knew its end after {time.monotonic() - began:.2f} s")

    # -- running

    def test_each_on_each(self) -> None:
        """A command of each machine runs on each, with its output and exit status here."""

        def run(here: Machine, there: Machine) -> tuple[Ran, float]:
            began = time.monotonic()
            script = "uname -n; echo $BZZZ_FENCING_TOKEN by $(id -un) >&2; exit 7"
            ran = self.bzzz(here, "run", "--on", there.name, "--", "sh", "-c", script)
            return ran, time.monotonic() - began

        pairs = [(here, there) for here in self.members for there in self.members]
        began = time.monotonic()
        for (here, there), (ran, _) in zip(
            pairs, together(partial(run, *pair) for pair in pairs), strict=True
        ):
            self.assertEqual(ran, (7, f"{there.name}\n", "1 by bzzz\n"), (here.name, there.name))
        self.tell(f"nine commands at once: {time.monotonic() - began:.2f} s")
        _, alone = run(self.walnut, self.acacia)
        self.tell(f"one command alone: {alone:.2f} s")
        times = []
        for _ in range(5):
            for here, there in pairs:
                began = time.monotonic()
                result = node(here).run(["uname", "-n"], on=there.name, check=True)
                times.append(time.monotonic() - began)
                self.assertEqual(result.stdout.decode(), f"{there.name}\n")
        self.tell(
            f"{len(times)} by a program, one after the other:"
            f" {statistics.median(times) * 1000:.0f} ms each, {max(times) * 1000:.0f} at most"
        )

    def test_workflow(self) -> None:
        """A workflow of three steps, each of which gets the files of those before it."""
        walnut = self.walnut
        walnut.run("tee", FILE, stdin=WORKFLOW)
        walnut.run("tee", "/root/seed.txt", stdin="pear\napple\nquince\n")
        began = time.monotonic()
        ran = self.bzzz(walnut, "submit", FILE)
        self.tell(f"three steps on three machines: {time.monotonic() - began:.2f} s")
        self.assertEqual(ran.code, 0, ran.output)
        self.assertIn("The workflow is done.", ran.stdout)
        workflow = ran.stdout.split()[0]
        tasks = node(walnut).tasks(ended=True)
        by_step = {each.step: each for each in tasks if each.workflow == workflow}
        places = {step: each.worker_name for step, each in by_step.items()}
        self.assertEqual(places, {"list": "walnut", "count": "ironwood", "tell": "acacia"})
        output = node(self.ironwood).task(by_step["tell"].id).wait(10.0).stdout.decode()
        self.assertEqual(output, "walnut\nironwood\napple\npear\nquince\n3\n")
        for machine in self.members:
            into = f"/root/fetched-{time.time()}"
            fetched = self.bzzz(machine, "fetch", workflow, "--into", into)
            self.assertEqual(fetched.code, 0, fetched.output)
            files = machine.shell(f"cd {into} && find . -type f | sort && cat */here.txt").stdout
            self.assertEqual(
                files.splitlines(),
                [
                    "./count/counts/deep/count.txt",
                    "./count/counts/where",
                    "./list/lists/sorted.txt",
                    "./list/lists/where.txt",
                    "./tell/here.txt",
                    "acacia",
                ],
            )

    # -- nodes that die

    def test_origin_killed(self) -> None:
        """The origin's node is killed while its task runs elsewhere: others tell the result."""
        task = node(self.walnut).submit(beating(2.0), on="ironwood")
        self.until_beats(task, self.ironwood, 1)
        killed = kill(self.walnut)
        result = node(self.acacia).task(task.id).wait(PATIENCE)
        self.assertEqual((result.exit_status, ends(result.task)), (0, [(1, "done")]))
        self.assertTrue(result.stdout.endswith(b"done by 1\n"))
        told = self.told(self.ironwood, task, 1)
        self.tell(f"its result was told {time.time() - told.times[-1]:.2f} s after its end")
        self.assertLess(killed, told.times[-1])
        # By somebody who types, too, while the origin is away.
        logs = self.bzzz(self.acacia, "logs", task.id)
        self.assertEqual((logs.code, logs.stdout.encode()), (0, result.stdout))
        self.walnut.run("systemctl", "restart", "bzzz")
        self.until_ready()
        self.assert_recorded_once(task, [(1, "done")])

    def test_worker_killed(self) -> None:
        """A worker's node is killed: its task is ended with it, and runs elsewhere soon after."""
        victim = self.ironwood
        task = self.submit_to(victim, self.acacia, LONG)
        killed = kill(victim)
        again = self.until_beats(task, self.acacia, 2)
        self.assertEqual(processes(victim, task.id), [])
        last = self.told(victim, task, 1).times[-1]
        self.tell(f"killed with its node after {max(0.0, last - killed):.2f} s")
        self.figure("runs elsewhere after", again.times[0] - killed, MOVED_WITHIN)
        self.assertEqual(again.token, 2)
        self.assertLess(last, again.times[0])
        victim.run("systemctl", "restart", "bzzz")
        self.assertEqual(task.wait(PATIENCE).exit_status, 0)
        self.until_ready()
        self.assert_recorded_once(task, [(1, "lost"), (2, "done")])

    def test_origin_and_worker_killed(self) -> None:
        """The node of a task's origin, which runs it too, is killed: another drives and runs it."""
        walnut, acacia = self.walnut, self.acacia
        task = self.submit_to(walnut, acacia, LONG)
        killed = kill(walnut)
        again = self.until_beats(task, acacia, 2)
        self.tell(f"runs elsewhere after: {again.times[0] - killed:.2f} s")
        self.assertLess(self.told(walnut, task, 1).times[-1], again.times[0])
        walnut.run("systemctl", "restart", "bzzz")
        self.assertEqual(node(acacia).task(task.id).wait(PATIENCE).exit_status, 0)
        self.until_ready()
        self.assert_recorded_once(task, [(1, "lost"), (2, "done")])

    def test_cut_off(self) -> None:
        """A worker without a network ends its attempt by itself, before the next one begins."""
        victim, other = self.acacia, self.ironwood
        task = self.submit_to(victim, other, 2 * LONG)
        self.addCleanup(victim.plug, True)
        cut = time.time()
        victim.plug(False)
        again = self.until_beats(task, other, 2)
        self.assertEqual(processes(victim, task.id), [])
        first = self.told(victim, task, 1)
        last = first.times[-1]
        self.figure("its attempt is ended after", last - cut, ENDED_WITHIN)
        self.tell(f"runs elsewhere after: {again.times[0] - cut:.2f} s")
        self.tell(f"between the two: {again.times[0] - last:.2f} s")
        self.assertLess(last, again.times[0])
        self.assertEqual((first.token, first.is_done, again.token), (1, False, 2))
        self.assertEqual(task.wait(PATIENCE).exit_status, 0)
        # What two can do without the third, and what the third says that it cannot.
        with_two = node(self.walnut).run(["uname", "-n"], on=other.name, check=True)
        self.assertEqual(with_two.stdout.decode(), f"{other.name}\n")
        until(lambda: fits(victim) == [victim.name], PATIENCE, "it knows that it is alone", 0.2)
        refused = self.bzzz(victim, "run", "--", "true")
        self.assertEqual(refused.code, 122, refused.output)
        self.assertIn("none of the 2 other members can be reached", refused.stderr)
        time.sleep(max(0.0, cut + CUT_OFF - time.time()))
        plugged = time.time()
        victim.plug(True)
        self.until_ready()
        self.tell(f"is given tasks again {time.time() - plugged:.2f} s after it was plugged in")
        self.assert_recorded_once(task, [(1, "lost"), (2, "done")])
        self.assertTrue(self.told(other, task, 2).is_done)
        self.assertEqual(self.told(victim, task, 1), first)

    # -- ending what runs

    def test_cancel(self) -> None:
        """A cancel ends all that a task has started, though it ignores SIGTERM."""
        task = node(self.walnut).submit(["sh", "-c", FORKS], on="ironwood")
        alive = partial(processes, self.ironwood, task.id)
        # Each of the twenty is a shell that waits for a sleep; of one that is not seen.
        count = len(until(lambda: found if len(found := alive()) >= 40 else None, 20.0, "forks"))
        began = time.monotonic()
        self.assertIn(
            "is being ended on ironwood", self.bzzz(self.acacia, "cancel", task.id).stdout
        )
        asked = time.monotonic()
        until(lambda: not alive(), PATIENCE, "nothing of it is left", 0.05)
        self.figure(f"{count} processes gone after", time.monotonic() - asked, CANCELLED_WITHIN)
        self.tell(f"with the command: {time.monotonic() - began:.2f} s")
        result = task.wait(PATIENCE)
        self.assertEqual((result.task.state, ends(result.task)), ("cancelled", [(1, "cancelled")]))
        self.assertEqual(processes(self.ironwood, "sleep\x001000"), [])

    def test_limits(self) -> None:
        """Too much memory, time or output: the exit status and a line say so."""
        eat = "import time; eaten = b'x' * (200 << 20); time.sleep(60)"
        memory = ("run", "--on", "ironwood", "--memory", "100MiB", "--", "python3", "-c", eat)
        late = ("run", "--on", "acacia", "--timeout", "1s", "--", "sleep", "60")
        began = time.monotonic()
        ate, took = together(
            [partial(self.bzzz, self.walnut, *memory), partial(self.bzzz, self.walnut, *late)]
        )
        self.tell(f"memory and time: {time.monotonic() - began:.2f} s")
        self.assertEqual((ate.code, ate.stdout), (137, ""))
        used = r"\AOn ironwood: it used [\d.]+ \wiB of memory, more than the 100 MiB .*\n\Z"
        self.assertRegex(ate.stderr, used)
        self.assertEqual(took, (124, "", "It took longer than 1 s, and was ended.\n"))
        # Of 65 MiB 64 are kept.
        began = time.monotonic()
        prints = "bzzz run --on ironwood -- head -c 68157440 /dev/zero | tail -c 90 | tr -d '\\000'"
        said = self.walnut.shell(prints)
        self.tell(f"64 MiB of output: {time.monotonic() - began:.2f} s")
        self.assertEqual(
            said.stdout, "\n[bzzz: the output after these 67108864 bytes was thrown away]\n"
        )

    # -- stopping

    def test_drain(self) -> None:
        """A machine that drains ends what it runs, and is given nothing new."""
        ironwood = self.ironwood
        task = node(self.walnut).submit(beating(4.0), on="ironwood")
        self.until_beats(task, ironwood, 1)
        self.addCleanup(node(ironwood).undrain)
        self.assertIn("takes no new tasks", self.bzzz(ironwood, "drain").stdout)
        drained = time.time()
        for machine in self.members:
            rest = sorted(each.name for each in self.others(ironwood))
            until(lambda one=machine, rest=rest: fits(one) == rest, 5.0, "all know it", 0.02)  # type: ignore[misc]  # bound at once
        self.tell(f"all know it after {time.time() - drained:.2f} s")
        runs = [
            partial(node(each).run, ["uname", "-n"], check=True)
            for each in self.members
            for _ in range(6)
        ]
        places = [result.stdout.decode().strip() for result in together(runs)]
        self.assertEqual(set(places), {"walnut", "acacia"})
        waiting = node(self.walnut).submit(["true"], on="ironwood")
        reasons = {each.name: [why.text for why in each.unfit] for each in waiting.why()}
        self.assertEqual(reasons["ironwood"], ["it is draining and takes nothing new"])
        self.assertEqual(task.wait(PATIENCE).exit_status, 0)
        self.assertEqual(waiting.info().state, "waiting")
        self.bzzz(ironwood, "undrain")
        self.assertEqual(waiting.wait(PATIENCE).exit_status, 0)

    def test_stop(self) -> None:
        """A service that is stopped waits for what runs, and its result is not lost."""
        ironwood = self.ironwood
        task = node(self.walnut).submit(beating(3.0), on="ironwood")
        self.until_beats(task, ironwood, 1)
        began = time.monotonic()
        ironwood.run("systemctl", "stop", "bzzz")
        self.addCleanup(ironwood.run, "systemctl", "start", "bzzz")
        self.tell(f"stopped after {time.monotonic() - began:.2f} s")
        result = node(self.acacia).task(task.id).wait(PATIENCE)
        self.assertEqual((result.exit_status, ends(result.task)), (0, [(1, "done")]))
        self.assertTrue(self.told(ironwood, task, 1).is_done)
        self.assertTrue(result.stdout.endswith(b"done by 1\n"))
        ironwood.run("systemctl", "start", "bzzz")
        self.until_ready()
        self.assert_recorded_once(task, [(1, "done")])

    def test_stop_timeout(self) -> None:
        """What has not ended when a service stops runs elsewhere at once, and is not waited for."""
        victim, other = self.ironwood, self.acacia
        self.addCleanup(victim.run, "systemctl", "restart", "bzzz")
        self.addCleanup(victim.run, "tee", CONFIG, stdin="")
        victim.run("tee", CONFIG, stdin='stop_timeout = "1s"\n')
        victim.run("systemctl", "restart", "bzzz")
        self.until_ready()
        task = self.submit_to(victim, other, LONG)
        began = time.monotonic()
        victim.run("systemctl", "stop", "bzzz")
        self.figure("stopped after", time.monotonic() - began, 1.0 + MOVED_WITHIN)
        again = self.until_beats(task, other, 2)
        last = self.told(victim, task, 1).times[-1]
        self.figure("runs elsewhere after its end", again.times[0] - last, 1.0)
        self.assertEqual(processes(victim, task.id), [])
        self.assertEqual(task.wait(PATIENCE).exit_status, 0)
        victim.run("systemctl", "start", "bzzz")
        self.until_ready()
        self.assert_recorded_once(task, [(1, "lost"), (2, "done")])

    # -- refusals

    def test_refusals(self) -> None:
        """Nothing is run, and it is said why."""
        runs = {
            ("--where", "resources.memory >"): (
                122,
                r"column 19: it ends here, and something is missing",
            ),
            ("--where", "resources.rom > 1"): (122, r"rom"),
            ("--on", "birch"): (122, r"birch"),
            ("--on", "elm"): (122, r"elm"),
            ("--memory", "100TiB"): (122, r"(?s)could run it:\n.*acacia: .*--wait"),
            ("--in", "/root/missing"): (122, r"/root/missing is not there"),
        }
        commands = [("run", *options, "--", "true") for options in runs]
        commands += [("run", "--on", "acacia", "--", "no-such-command")]
        wanted = [*runs.values(), (127, "no-such-command")]
        rans = together(partial(self.bzzz, self.walnut, *each) for each in commands)
        for command, (code, said), ran in zip(commands, wanted, rans, strict=True):
            self.tell(f"{ran.code} {ran.stderr.strip()}")
            self.assertEqual((ran.code, ran.stdout), (code, ""), f"{command}: {ran.output}")
            self.assertRegex(ran.stderr, said)
            self.assertNotIn("Traceback", ran.stderr)

    def test_why(self) -> None:
        """A task that waits for a machine says what each lacks, and runs when one has it."""
        task = node(self.walnut).submit(["true"], where='"workshop" in labels', wait=True)
        said = self.bzzz(self.ironwood, "why", task.id)
        self.tell(said.stdout.strip())
        self.assertEqual(said.code, 0, said.output)
        for machine in self.members:
            self.assertRegex(said.stdout, rf"(?m)^{machine.name} +no .*workshop")
        self.assertEqual(task.cancel().state, "cancelled")

    def test_not_a_member(self) -> None:
        """A machine in no cluster runs its own alone; a role lets a member do what it says."""
        elm, walnut = self.elm, self.walnut
        self.assertEqual(fits(walnut), sorted(each.name for each in self.members))
        refused = self.bzzz(elm, "run", "--on", "walnut", "--", "true")
        self.tell(f"{refused.code} {refused.stderr.strip()}")
        self.assertEqual(refused.code, 122)
        self.assertIn("it is in no cluster", refused.stderr)
        self.join_as("submit-only")
        names = sorted(each.name for each in self.members)
        until(lambda: fits(elm) == names, PATIENCE, "elm gives tasks to the others", 0.1)
        refused = self.bzzz(walnut, "run", "--on", "elm", "--", "true")
        self.tell(f"{refused.code} {refused.stderr.strip()}")
        self.assertEqual(refused.code, 122)
        self.assertIn("elm: its role runs no tasks\n", refused.stderr)
        self.assertEqual(node(elm).run(["uname", "-n"], on="acacia").stdout, b"acacia\n")
        elm.run("bzzz", "leave")
        self.join_as("run-only")
        refused = self.bzzz(elm, "run", "--", "true")
        self.tell(f"{refused.code} {refused.stderr.strip()}")
        self.assertEqual(refused.code, 122)
        self.assertIn("its role does not allow it", refused.stderr)
        self.assertEqual(node(walnut).run(["uname", "-n"], on="elm").stdout, b"elm\n")
        elm.run("bzzz", "leave")
        until(lambda: len(ask(walnut, "members")["members"]) == 3, PATIENCE, "it has left", 0.2)

    def join_as(self, role: str) -> None:
        """Let the machine that is no member in, until the test ends at the latest."""
        self.addCleanup(self.elm.run, "bzzz", "leave", check=False)
        code = invite(self.walnut, "--role", role)
        self.elm.run("bzzz", "join", code, timeout=PATIENCE)
        until(lambda: "elm" in verdicts(self.walnut), PATIENCE, "walnut has heard of it", 0.1)
