"""Workflows: their files, and what becomes of their steps (``docs/tasks.rst``, "Workflows")."""
