"""Fuzzing of every core that bytes of a peer reach.

======================= ==========================================================================
:mod:`.targets`         the functions that take the fuzzer's bytes; whatever they raise is a finding
:mod:`.wire_targets`    the cores below the streams
:mod:`.mesh_targets`    what streams and packets carry, and the configuration file
:mod:`.node_target`     a whole node, and a peer that says anything to it
:mod:`.seeds`           well-formed inputs to begin with; ``corpus/`` holds them as files
``regressions/``        inputs that once did harm, replayed by every run of the tests
======================= ==========================================================================

``python -m tests.fuzz TARGET --seconds N`` runs one target in libFuzzer, by way of atheris.
"""
