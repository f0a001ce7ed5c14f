"""The hub: everything that it decides. Cannot import an image reader."""
