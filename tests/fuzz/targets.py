"""What is fuzzed: one function for each core that bytes of a peer reach.

Enters: arbitrary bytes. Leaves: nothing; whatever is raised is a finding. Each function lets pass
only the errors that its core documents, and asserts the bounds that the core promises.
"""

from __future__ import annotations

# Importing them enters their targets.
from tests.fuzz import (
    audit_targets,
    exchange_targets,
    file_targets,
    member_target,
    mesh_targets,
    node_target,
    pairing_targets,
    task_targets,
    trust_targets,
    wire_targets,
)
from tests.fuzz.registry import TARGETS

__all__ = [
    "TARGETS",
    "audit_targets",
    "exchange_targets",
    "file_targets",
    "member_target",
    "mesh_targets",
    "node_target",
    "pairing_targets",
    "task_targets",
    "trust_targets",
    "wire_targets",
]
