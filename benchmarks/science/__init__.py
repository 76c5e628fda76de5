"""The table of methods, target sets and numbers of targets: `farfield bench science`."""
