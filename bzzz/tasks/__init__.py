"""Tasks: submitted anywhere, run once in the right place, never lost (docs/tasks.rst).

So far the register that a task's record is kept in, with its replicas' disks, the states of a task,
and leases; no node uses them yet.
"""
