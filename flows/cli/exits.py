"""Exit codes of runs by their state; those of errors are in `flows.cli.main`."""

EXIT_OF_STATE = {"quarantined": 3, "undecided": 4, "incomplete": 5}
