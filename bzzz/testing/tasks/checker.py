"""What a history of tasks must not have in it (``docs/tasks.rst``, "What is promised").

Enters: a history. Leaves: what is wrong with it, each with the task and the events that show it.
Nothing here knows how tasks are run; it is tested with histories that are wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from bzzz.tasks.record import End, Outcome, State, TaskState
from bzzz.testing.tasks.history import (
    Acknowledged,
    CancelWanted,
    Decided,
    Ended,
    Event,
    Final,
    History,
    RetryWanted,
    Started,
    Submitted,
)

__all__ = ["check"]


def check(history: History, most: int = 20) -> list[str]:
    """What is wrong, at most so many things."""
    tasks: dict[str, list[Event]] = defaultdict(list)
    for event in history.events:
        tasks[event.task].append(event)
    found: list[str] = []
    for task, events in tasks.items():
        for rule in RULES:
            found += [f"{task}: {problem}" for problem in rule(events)]
            if len(found) >= most:
                return found[:most]
    return found


def _lost(events: Sequence[Event]) -> list[str]:
    """An acknowledged task is there and has ended; one that was not may be there, and has ended."""
    finals = [event for event in events if isinstance(event, Final)]
    if not finals:
        return ["nobody looked at it in the end"]
    final = finals[-1]
    if final.problem:
        return [f"it cannot be read in the end: {final.problem}"]
    if final.state is None:
        if any(isinstance(event, Acknowledged) for event in events):
            return ["it was acknowledged and is lost"]
        return []
    if final.state.state is not State.ENDED:
        return [f"it has not ended: {final.state}"]
    return []


def _overlaps(events: Sequence[Event]) -> list[str]:
    """Never do two attempts run at once, nor one token twice, nor an older one after a newer."""
    found = []
    running: dict[tuple[int, str], Started] = {}
    begun: set[int] = set()
    for event in events:
        if isinstance(event, Started):
            found += [
                f"token {event.token} began at {event.at:.3f} on {event.worker} while"
                f" token {other.token} ran on {other.worker}"
                for other in running.values()
            ]
            if event.token in begun:
                found.append(f"token {event.token} began twice, again at {event.at:.3f}")
            if begun and event.token < max(begun):
                found.append(f"token {event.token} began at {event.at:.3f} after {max(begun)}")
            begun.add(event.token)
            running[event.token, event.worker] = event
        elif isinstance(event, Ended):
            running.pop((event.token, event.worker), None)
    return found


def _at_most_once(events: Sequence[Event]) -> list[str]:
    """What may run once at most has not run twice, unless somebody wanted it anew."""
    submitted = next((event for event in events if isinstance(event, Submitted)), None)
    if submitted is None or not submitted.at_most_once:
        return []
    wanted = 1 + sum(isinstance(event, RetryWanted) for event in events)
    began = sum(isinstance(event, Started) for event in events)
    return [f"it ran {began} times, and may {wanted}"] if began > wanted else []


def _one_truth(events: Sequence[Event]) -> list[str]:
    """All who say what was decided say the same of each version; an end stays one."""
    found = []
    states: dict[int, TaskState] = {}
    for event in events:
        if isinstance(event, Decided | Final) and event.state is not None:
            state = event.state
            known = states.setdefault(state.version, state)
            if known != state:
                found.append(f"version {state.version} is {known} and {state}")
    last: TaskState | None = None
    retries = sum(isinstance(event, RetryWanted) for event in events)
    for _, state in sorted(states.items()):
        if last is not None:
            if state.token < last.token:
                found.append(f"the token went from {last.token} to {state.token}")
            if last.state is State.ENDED and not _same_end(last, state):
                if state.state is not State.ENDED and retries > 0:
                    retries -= 1
                else:
                    found.append(f"its end was changed: {last}, then {state}")
        last = state
    return found


def _same_end(last: TaskState, state: TaskState) -> bool:
    """Whether an ended task has the same result still; late words may have been added."""
    return state.state is State.ENDED and (
        state.outcome,
        state.exit_status,
        state.by,
        state.token,
    ) == (last.outcome, last.exit_status, last.by, last.token)


def _results(events: Sequence[Event]) -> list[str]:
    """A result is of an attempt that ended so, and of the last token."""
    ended = {
        (event.token, event.worker): event.exit_status
        for event in events
        if isinstance(event, Ended)
    }
    cancels = any(isinstance(event, CancelWanted) for event in events)
    found = []
    for event in events:
        if not isinstance(event, Decided | Final) or event.state is None:
            continue
        state = event.state
        for attempt in state.attempts:
            if attempt.end in (End.DONE, End.FAILED):
                told = ended.get((attempt.token, attempt.worker), "nothing")
                if told != attempt.exit_status:
                    found.append(f"{attempt} is recorded, and the command gave {told}")
        if state.state is not State.ENDED:
            continue
        if state.outcome is Outcome.DONE:
            last = state.attempts[-1] if state.attempts else None
            of_last = [
                each for each in state.attempts if each.end is End.DONE and each.worker == state.by
            ]
            if last is None or not of_last or of_last[-1].token != state.token:
                found.append(f"its result is not of its last token: {state}")
        if state.outcome is Outcome.CANCELLED and not cancels:
            found.append("it is cancelled, and nobody wanted that")
        if sum(each.end is End.DONE for each in state.attempts) > 1 and not any(
            isinstance(each, RetryWanted) for each in events
        ):
            found.append(f"two results are recorded: {state}")
    return list(dict.fromkeys(found))


RULES = (_lost, _overlaps, _at_most_once, _one_truth, _results)
