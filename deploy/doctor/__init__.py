"""What is wrong with this machine, this hub, this site: facts gathered, then checked."""
