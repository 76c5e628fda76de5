"""Numbers: covariance operators, counter-based random streams, symmetry groups."""
