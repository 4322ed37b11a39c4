"""The audit of what Bzzz depends on: nothing counts as passed that nobody has looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests import audit
from tests.audit import CANNOT_TELL, judge
from tests.run import Counts, audited

GOOD: dict[str, Any] = {"name": "attrs", "version": "26.1.0", "vulns": []}
BAD: dict[str, Any] = {
    "name": "six",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"]}, {"id": "X", "fix_versions": []}],
}
UNKNOWN: dict[str, Any] = {"name": "tubes", "skip_reason": "not found on PyPI"}


class AuditTests(SynchronousTestCase):
    """What is made of pip-audit's answers."""

    def test_good(self) -> None:
        """All were looked up, and nothing is known of any."""
        self.assertEqual(judge([GOOD, GOOD]), (0, ["2 packages, and no known vulnerability"]))

    def test_bad(self) -> None:
        """Each vulnerability has a line, with its mend; also where some are not known."""
        lines = [
            "six 1.0: PYSEC-1, mended in 1.1, 2.0",
            "six 1.0: X, mended in no version yet",
        ]
        self.assertEqual(judge([GOOD, BAD]), (1, lines))
        code, said = judge([UNKNOWN, BAD])
        self.assertEqual((code, said[:2], len(said)), (1, lines, 3))

    def test_unknown(self) -> None:
        """A service that knows nothing of a package has not said that it is good."""
        said = "not audited: the service tells nothing of 1 of 2 packages, such as tubes"
        self.assertEqual(judge([GOOD, UNKNOWN]), (CANNOT_TELL, [said]))
        self.assertEqual(judge([])[0], CANNOT_TELL)

    def test_not_reached(self) -> None:
        """Without an index it says why."""

        def refuse(directory: Path) -> Any:
            raise audit.Untold("pip-audit cannot be had: no index")

        self.patch(audit, "report", refuse)
        self.assertEqual(audit.main(), CANNOT_TELL)

    def test_counts(self) -> None:
        """What cannot be told is skipped, neither passed nor failed."""
        self.assertEqual(audited(0, ""), Counts(passed=1))
        self.assertEqual(audited(1, ""), Counts(failed=1))
        self.assertEqual(audited(CANNOT_TELL, ""), Counts(skipped=1))
        self.assertEqual(audited(-6, ""), Counts(failed=1))
