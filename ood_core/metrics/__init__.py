"""Statistics of sets of maps: pure functions of tensors, none of which knows what a sample is."""
