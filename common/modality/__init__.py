"""Learning from unlike modalities: normalisation banks and class affinities."""
