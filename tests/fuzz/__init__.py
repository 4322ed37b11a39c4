"""Fuzzing of every core that bytes of a peer reach.

=================== ==============================================================================
:mod:`.targets`     the functions that take the fuzzer's bytes, and the errors they may raise
:mod:`.seeds`       well-formed inputs to begin with; ``corpus/`` holds them as files
``regressions/``    inputs that once did harm, replayed by every run of the tests
=================== ==============================================================================

``python -m tests.fuzz TARGET --seconds N`` runs one target in libFuzzer, by way of atheris.
"""
