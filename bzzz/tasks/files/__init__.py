"""Files of tasks: packed into chunks, fetched from members, unpacked (``docs/tasks.rst``, "Files").

Read first: :mod:`~bzzz.tasks.files.files`, which is what others use, then
:mod:`~bzzz.tasks.files.manifest` and :mod:`~bzzz.tasks.files.chunk_store`.
"""
