"""Where a node meets systemd: environment, notifications, journal, its unit; all of it optional."""
