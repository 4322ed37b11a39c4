"""Tasks: submitted anywhere, run once in the right place, never lost (docs/tasks.rst).

So far the register that a task's record is kept in, its states, and leases; nothing uses them yet.
"""
