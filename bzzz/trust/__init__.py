"""Who is in a cluster, how a machine is let in, and what is recorded of it (docs/trust.rst)."""
