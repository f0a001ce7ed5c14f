"""Everything that touches an image, and everything a site decides."""
