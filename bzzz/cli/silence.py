"""What is said when nothing has happened for a while, as long as a task waits.

Enters: that it waits, and that something has happened. Leaves: a line, once, in a thread of its
own: whoever reads the node's answer hears nothing meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["SECONDS", "Silence"]

# Of waiting, after which that is told.
SECONDS = 3.0


class Silence:
    """Breaks a silence.

    :param say: says a line.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._timer: threading.Timer | None = None

    def begin(self, text: str) -> None:
        """Say this in a while."""
        self.end()
        self._timer = threading.Timer(SECONDS, self._say, (text,))
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """Something has happened: do not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
