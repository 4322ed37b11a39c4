"""The simulator and public fakes: whole nodes, one virtual clock, an in-memory network with faults.

========== ========================================================================================
clock      virtual time for all, and a drifting clock for each node
network    hosts, byte streams as TCP has them, partitions, crashes
discovery  multicast that reaches whom it may
simulation whole nodes on these, their history, and what has to be true of them in the end
faults     a schedule of faults drawn from a seed
========== ========================================================================================

``python -m bzzz.testing --nodes 200 --seeds 20`` runs many of them and prints a table.
"""
