"""What hub and site both speak."""
