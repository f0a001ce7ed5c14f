"""A process, a user: units for systemd, and what a proxy and a registrar apart need for it."""
