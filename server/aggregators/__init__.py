"""How updates are combined: pure functions of one tensor of all sites at a time."""
