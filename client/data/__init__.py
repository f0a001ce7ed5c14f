"""From files at the site to training patches; nothing here is ever sent."""
