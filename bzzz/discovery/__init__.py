"""Who might be out there: multicast DNS, bootstrap addresses, the address book, and the interfaces.

Nothing here is proved; a peer is who it says it is only after the handshake.
"""
