"""Tasks: submitted anywhere, run once in the right place, never lost (``docs/tasks.rst``).

============================================ =====================================================
service                                      one node's tasks, composed, and what its owner wants of
                                             them; read it first
world, interfaces, everyone                  what it needs of its node; whom it can ask
answering, record_checks                     what others ask of it, and whether what they say may be
kept_records, reading                        what it keeps
finding                                      what others keep
watching                                     who wants to know of changes
driver, records, registers, proposer         acting for a task, through a majority of its replicas
replica, acceptor, register_store            keeping it
askers, asking                               who may ask a replica, and asking one
worker, leases, executors                    running an attempt, as long as its lease lasts
submission, record, value                    what was submitted, its state, both together
messages, peers                              what members ask each other
placing, waiting, placement, requirements,   who runs it
requirement_syntax, slots, owner_rules,
quarantine, refusals
rights, offering, candidates, draining       who may do what; what this machine offers, and others
workspace, output, output_streams, following its files and what it prints
files                                        files that travel, as chunks
workflows                                    steps with needs
announcing                                   what is told to the topic
============================================ =====================================================
"""
