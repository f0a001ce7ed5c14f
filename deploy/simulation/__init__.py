"""A whole federation on one machine: the real two apps, without a network."""
