"""What a history of tasks must not have in it (``docs/tasks.rst``, "What is promised").

Enters: a history. Leaves: what is wrong with it, each with the task and the events that show it.
Nothing here knows how tasks are run; it is tested with histories that are wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final as Constant

from bzzz.tasks.record import ATTEMPTS_KEPT, Attempt, End, Outcome, State, TaskState
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

__all__ = ["check", "same_end"]

# What the command of an attempt gave that has not ended, or never began.
NOTHING: Constant = "nothing"


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
    """An acknowledged task is there and has ended, as what was decided is; one that was not may be
    there, and has ended."""
    finals = [event for event in events if isinstance(event, Final)]
    if not finals:
        return ["nobody looked at it in the end"]
    final = finals[-1]
    decided = [event.state.version for event in events if isinstance(event, Decided)]
    if final.problem:
        if not any(isinstance(event, Acknowledged | Decided | Started) for event in events):
            # One replica alone has it, as it was killed before another heard of it. After its start
            # it has given it up, which nobody else knows of or will.
            return []
        return [f"it cannot be read in the end: {final.problem}"]
    if final.state is None:
        if any(isinstance(event, Acknowledged) for event in events):
            return ["it was acknowledged and is lost"]
        return [f"version {max(decided)} was decided, and it is lost"] if decided else []
    if final.state.version < max(decided, default=0):
        return [f"version {max(decided)} was decided, and {final.state.version} is the last"]
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


def _only_current(events: Sequence[Event]) -> list[str]:
    """Nothing runs that is not the current attempt by what was decided last, nor in the end."""
    found = []
    running: list[Started] = []
    last: TaskState | None = None
    for event in events:
        if isinstance(event, Started):
            running.append(event)
        elif isinstance(event, Ended):
            running = [each for each in running if _attempt(each) != _attempt(event)]
        elif isinstance(event, Decided | Final) and event.state is not None:
            # Some nodes say late what was decided.
            last = max(last or event.state, event.state, key=lambda state: state.version)
        for each in running:
            # Who has given a greater token may be gone before it could say so.
            told = last is not None and each.token <= last.token
            if isinstance(event, Final) or (told and _attempt(each) != _current(last)):
                found.append(f"token {each.token} runs on {each.worker} at {event.at:.3f}: {last}")
                running = [other for other in running if other is not each]
    return found


def _attempt(event: Started | Ended) -> tuple[int, str]:
    return event.token, event.worker


def _current(state: TaskState | None) -> tuple[int, str] | None:
    if state is None or state.state is not State.ASSIGNED:
        return None
    return state.token, state.worker


def _at_most_once(events: Sequence[Event]) -> list[str]:
    """What may run once at most has not run twice, unless somebody wanted it anew before."""
    submitted = next((event for event in events if isinstance(event, Submitted)), None)
    if submitted is None or not submitted.at_most_once:
        return []
    wanted, began = 1, 0
    for event in events:
        wanted += isinstance(event, RetryWanted)
        began += isinstance(event, Started)
        if began > wanted:
            return [f"it ran {began} times at {event.at:.3f}, and may {wanted}"]
    return []


def _one_truth(events: Sequence[Event]) -> list[str]:
    """All who say what was decided say the same of each version; an end stays one, and a cancel
    that was recorded counts, until somebody wants it begun anew."""
    found = []
    states: dict[int, TaskState] = {}
    # By version: how often that was wanted before anybody spoke of the version.
    wanted: dict[int, int] = {}
    retries = 0
    for event in events:
        retries += isinstance(event, RetryWanted)
        if isinstance(event, Decided | Final) and event.state is not None:
            state = event.state
            known = states.setdefault(state.version, state)
            wanted.setdefault(state.version, retries)
            if known != state:
                found.append(f"version {state.version} is {known} and {state}")
    last: TaskState | None = None
    begun = 0
    for version, state in sorted(states.items()):
        if last is not None:
            problem = _changed(last, state)
            # It may have ended, and been begun anew, in versions that nobody spoke of.
            if problem and begun < wanted[version] and _begins_anew(last, state):
                begun += 1
            elif problem:
                found.append(f"{problem}: {last}, then {state}")
            if state.token < last.token:
                found.append(f"the token went from {last.token} to {state.token}")
        last = state
    return found


def _changed(last: TaskState, state: TaskState) -> str:
    """What of a state is not so any more that has to stay."""
    if last.state is State.ENDED and not same_end(last, state):
        return "its end was changed"
    if last.cancel and not (state.cancel and state.token == last.token):
        return "its cancel was forgotten"
    return ""


def _begins_anew(last: TaskState, state: TaskState) -> bool:
    missing = state.version - last.version - 1
    needed = (last.state is not State.ENDED) + (state.state is State.ENDED)
    return missing >= needed


def same_end(last: TaskState, state: TaskState) -> bool:
    """Whether an ended task has the same result still; late words may have been added."""
    return state.state is State.ENDED and (
        state.outcome,
        state.exit_status,
        state.by,
        state.token,
        state.produced,
    ) == (last.outcome, last.exit_status, last.by, last.token, last.produced)


def _results(events: Sequence[Event]) -> list[str]:
    """A result is of an attempt that ended so before, and of the last token; one each time that
    the task is begun. Each token has one end."""
    found = []
    ended: dict[tuple[int, str], int | None] = {}
    began: set[tuple[int, str]] = set()
    cancels, wanted = False, 1
    for event in events:
        if isinstance(event, Started):
            began.add(_attempt(event))
        elif isinstance(event, Ended):
            ended[_attempt(event)] = event.exit_status
        cancels = cancels or isinstance(event, CancelWanted)
        wanted += isinstance(event, RetryWanted)
        if not isinstance(event, Decided | Final) or event.state is None:
            continue
        state = event.state
        for attempt in state.attempts:
            told = ended.get((attempt.token, attempt.worker), NOTHING)
            if not _is_so(attempt, told, (attempt.token, attempt.worker) in began):
                found.append(f"{attempt} is recorded, and the command gave {told}")
        found += _ends(state)
        if state.outcome is Outcome.CANCELLED and not cancels:
            found.append("it is cancelled, and nobody wanted that")
        if sum(each.end is End.DONE for each in state.attempts) > wanted:
            found.append(f"two results are recorded: {state}")
    return list(dict.fromkeys(found))


def _is_so(attempt: Attempt, told: int | str | None, began: bool) -> bool:
    """Whether an attempt's command did what is recorded of it."""
    match attempt.end:
        case End.DONE:
            return attempt.exit_status == told == 0
        case End.FAILED:
            return attempt.exit_status == told != 0
        case End.TIMED_OUT:
            return told is None
        case End.CANCELLED:
            return told is None or not began
        case End.REFUSED:
            return not began
        case End.STALE:
            return told in (attempt.exit_status, NOTHING)
        case _:
            return True


def _ends(state: TaskState) -> list[str]:
    """Whether the ends of the attempts are one for each token, and the task's that of the last."""
    found = []
    over = [each for each in state.attempts if each.end is not End.STALE]
    last = state.token - (state.state is State.ASSIGNED)
    first = last - len(over) + 1
    whole = first == 1 or len(state.attempts) >= ATTEMPTS_KEPT
    if not whole or [each.token for each in over] != list(range(first, last + 1)):
        found.append(f"not each token has one end: {state}")
    if state.state is State.ENDED and state.outcome is not Outcome.CANCELLED:
        end = (
            None
            if not over or over[-1].token != state.token
            else (over[-1].end.value, over[-1].worker, over[-1].exit_status)
        )
        outcome = None if state.outcome is None else state.outcome.value
        if end is None or end != (outcome, state.by, state.exit_status):
            found.append(f"its result is not of its last token: {state}")
    return found


RULES = (_lost, _overlaps, _only_current, _at_most_once, _one_truth, _results)
