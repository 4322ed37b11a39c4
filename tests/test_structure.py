"""The house keeps its shape: imports point down only, and the pure packages stay pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import bzzz

ROOT = Path(bzzz.__file__).parent

# Lowest first. A package may import itself and whatever stands below it.
LAYERS = (
    ("errors",),
    ("atomic_file",),
    ("identity",),
    ("wire",),
    ("net",),
    ("database",),
    ("discovery", "trust"),
    ("events",),
    ("mesh",),
    ("tasks",),
    ("hive",),
    ("config",),
    ("reload",),
    ("state",),
    ("systemd",),
    ("log",),
    ("web",),
    ("client",),
    ("cli",),
    ("node_trust",),
    ("node_runs",),
    ("node_tasks",),
    ("node",),
    ("tap",),
    ("testing",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

PURE = {"errors", "identity", "wire"}
# And these of others: the cores of what has streams and disks around it.
PURE_MODULES = {
    "client/amounts.py",
    "client/conversation.py",
    "client/core.py",
    "client/errors.py",
    "client/idle.py",
    "client/lines.py",
    "client/schema.py",
    "client/wanted.py",
    "net/token_bucket.py",
    "tasks/acceptor.py",
    "tasks/askers.py",
    "tasks/ballots.py",
    "tasks/candidates.py",
    "tasks/executors/keeper_messages.py",
    "tasks/executors/unit_messages.py",
    "tasks/files/chunk_messages.py",
    "tasks/files/chunk_places.py",
    "tasks/files/errors.py",
    "tasks/files/globs.py",
    "tasks/files/manifest.py",
    "tasks/files/names.py",
    "tasks/leases.py",
    "tasks/messages.py",
    "tasks/offering.py",
    "tasks/owner_rules.py",
    "tasks/placement.py",
    "tasks/proposer.py",
    "tasks/quarantine.py",
    "tasks/record.py",
    "tasks/refusals.py",
    "tasks/register_messages.py",
    "tasks/requirement_syntax.py",
    "tasks/requirement_tokens.py",
    "tasks/requirements.py",
    "tasks/slots.py",
    "tasks/submission.py",
    "tasks/value.py",
    "tasks/waiting.py",
    "tasks/waiting_classes.py",
    "tasks/workflows/file.py",
    "tasks/workflows/matrix.py",
    "tasks/workflows/needs.py",
    "tasks/workflows/paths.py",
    "tasks/workflows/plan.py",
    "tasks/workflows/progress.py",
    "tasks/workflows/step.py",
    "tasks/workflows/syntax.py",
    "tasks/workflows/toml_lines.py",
    "tasks/workflows/values.py",
    "tasks/workflows/waits.py",
    "trust/admission.py",
    "trust/audit_chain.py",
    "trust/audit_events.py",
    "trust/audit_report.py",
    "trust/audit_verify.py",
    "trust/codes.py",
    "trust/invitations.py",
    "trust/pairing.py",
    "trust/pairing_events.py",
    "trust/pairing_keys.py",
    "trust/pairing_messages.py",
    "trust/roster.py",
    "trust/roster_exchange.py",
    "trust/roster_graph.py",
    "trust/roster_members.py",
    "trust/roster_room.py",
    "trust/roster_view.py",
    "trust/run_limits.py",
    "trust/spake2_group.py",
    "trust/statements.py",
}
IMPURE_MODULES = {"twisted", "zope", "time", "random", "secrets", "logging", "socket", "asyncio"}


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


class StructureTests(SynchronousTestCase):
    """DESIGN: bytes -> wire -> net -> mesh -> tasks, and never back."""

    def modules(self) -> list[Path]:
        return [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]

    def test_every_package_has_a_layer(self) -> None:
        """A new package or top-level module has to be given its place in LAYERS."""
        names = {package_of(path) for path in self.modules()}
        self.assertEqual(names - set(RANK), set())

    def test_imports_point_down(self) -> None:
        """No module imports from a layer above its own, or from a sibling in its layer."""
        wrong = []
        for path in self.modules():
            mine = package_of(path)
            for name in imports_of(path):
                parts = name.split(".")
                if parts[0] != "bzzz" or len(parts) < 2 or parts[1] not in RANK:
                    continue
                if parts[1] != mine and RANK[parts[1]] >= RANK[mine]:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
        self.assertEqual(wrong, [])

    def test_one_module_speaks_dbus(self) -> None:
        """txdbus is imported by one module alone, which guards against its weaknesses."""
        importers = {
            str(path.relative_to(ROOT))
            for path in self.modules()
            if any(name.split(".")[0] == "txdbus" for name in imports_of(path))
        }
        self.assertEqual(importers, {"systemd/units.py"})

    def test_pure_packages_are_pure(self) -> None:
        """The cores import no framework, no clock, no logger, no sockets, no global randomness."""
        wrong = []
        for path in self.modules():
            if path.name.endswith("_pb2.py") or (
                package_of(path) not in PURE and str(path.relative_to(ROOT)) not in PURE_MODULES
            ):
                continue
            for name in imports_of(path):
                if name.split(".")[0] in IMPURE_MODULES:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
        self.assertEqual(sorted(set(wrong)), [])
        there = {str(path.relative_to(ROOT)) for path in self.modules()}
        self.assertEqual(PURE_MODULES - there, set())
