"""Fuzzing of every core that bytes of a peer reach.

======================== ==========================================================================
:mod:`.registry`         where targets are entered, and what they share
:mod:`.wire_targets`     the cores below the streams
:mod:`.mesh_targets`     what streams and packets carry, and the configuration file
:mod:`.node_target`      a whole unclaimed node, and a peer that says anything to it
:mod:`.member_target`    the same of a member of a cluster, and an outsider
:mod:`.trust_targets`    statements, rosters, codes and tokens
:mod:`.exchange_targets` what members say of rosters, and what guests present
:mod:`.pairing_targets`  both sides of a pairing
:mod:`.audit_targets`    audit logs, and what members say of them
:mod:`.task_targets`     what members say of tasks: questions, answers, records, output
:mod:`.file_targets`     manifests, chunks, requirements, workflows
:mod:`.targets`          all of them; whatever one raises is a finding
:mod:`.seeds`            well-formed inputs to begin with; ``corpus/`` holds them as files
:mod:`.trust_seeds`      those of rosters and pairings
:mod:`.task_seeds`       those of tasks and files
``regressions/``         inputs that once did harm, replayed by every run of the tests
======================== ==========================================================================

``python -m tests.fuzz TARGET --seconds N`` runs one target in libFuzzer, by way of atheris.
"""
