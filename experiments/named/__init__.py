"""One file an experiment: a docstring with command and numbers, and `config()`."""
