"""Why a task waits, in one sentence.

Enters: what each node lacks for it. Leaves: words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bzzz.web.task_schema import NodeVerdict

__all__ = ["why_it_waits"]

# Nodes whose reasons are told.
MAX_TOLD: Final = 3


def why_it_waits(nodes: Sequence[NodeVerdict], *, reasons: bool = True) -> str:
    """Why a task waits that these nodes were looked at for.

    :param reasons: whether what some of them lack is told, too.
    """
    if not nodes:
        return "no machine that runs tasks is known here"
    if any(node.fits for node in nodes):
        return "a machine has room for it, and is to take it"
    # Where one is meant, there is nothing to tell of the others.
    meant = [node for node in nodes if all(unfit.code != "on" for unfit in node.unfit)]
    if not meant:
        return "the machine that it is for is not linked, or has not said yet what it can do"
    later = [node for node in meant if not any(unfit.never for unfit in node.unfit)]
    if later:
        said = "no machine that could run it takes it now"
        told = [_reasons(node, never=False) for node in later]
    else:
        said = "no machine that is linked could run it"
        told = [_reasons(node, never=True) for node in meant]
    if not reasons:
        return said
    more = len(told) - MAX_TOLD
    return f"{said}: {', '.join(told[:MAX_TOLD])}" + (f" and {more} more" if more > 0 else "")


def _reasons(node: NodeVerdict, never: bool) -> str:
    texts = [unfit.text for unfit in node.unfit if unfit.never is never]
    return f"{node.name} ({'; '.join(texts)})"
