"""What networks are put together from; each part is one class for two and for three dimensions."""
