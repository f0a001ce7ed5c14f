"""The hub's control service: everything between a site and its hub that is not a round."""
