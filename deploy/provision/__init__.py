"""Who may speak to a hub: authorities, invitations, a site's keys, and nginx in front."""
