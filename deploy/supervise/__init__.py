"""What starts, watches and ends the processes of a hub and of a site."""
