"""Bzzz: one encrypted mesh of the machines that somebody already owns.

The map of this tree, lowest layer first; imports point down only (``tests/test_structure.py``).

=========== ========================================================================================
errors      every error raised on purpose
atomic_file files that are there wholly or not at all
identity    pure: Ed25519 keys, peer IDs
wire        pure: the libp2p cores, bytes in -> events and bytes out
net         Twisted around ``wire``: links, streams, dialling, listening, the swarm
database    one SQLite file, used in a thread of its own
discovery   who might be out there: mDNS, bootstrap addresses, the address book
trust       who may be here: the roster, pairing, guests' proofs, the audit log
events      what happened, for people and programs that watch
mesh        who is here and what they can do: pubsub, membership, liveness, capabilities
tasks       tasks: their registers, leases, placing and running; files; workflows
config      one frozen, validated configuration
reload      the configuration, read again while the node runs
state       the state directory: lock, identity key, remembered port
systemd     what systemd is told and asked: notifications, the journal, the node's unit
log         where the log goes, and the form of its lines
web         the control API on a UNIX socket
client      the Python API: plain, asyncio and Twisted
cli         the ``bzzz`` command
node_trust  the part of the composition root about who may be here
node_tasks  the same about tasks
node_runs   the same about what runs their commands
node        composition root: builds one node's service tree
tap         ``twistd bzzz``: options and ``makeService``
testing     the simulator and public fakes
=========== ========================================================================================

Read first: this page, ``node.py``, ``wire/connection.py``.
"""

__version__ = "0.1.0"
