"""Speed of this project beside its peers, in one run: `make bench`."""
