"""Tasks in the simulator: many nodes that run the daemon's own task code, while all is at fault.

:mod:`~bzzz.testing.tasks.simulation` composes them; :mod:`~bzzz.testing.tasks.checker` says of a
history what should not have happened. ``python -m bzzz.testing.tasks --seeds 20``.
"""
