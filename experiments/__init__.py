"""Named experiments, their stages and the command line."""
