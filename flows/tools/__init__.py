"""Work beside a run: replay, walks, pretraining, downstream use."""
