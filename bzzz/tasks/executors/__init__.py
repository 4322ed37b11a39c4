"""What runs a task's command on this machine: :mod:`bzzz.tasks.executors.interfaces`."""
