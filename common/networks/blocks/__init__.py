"""What networks are put together from; each part is one class in two and three dimensions."""
