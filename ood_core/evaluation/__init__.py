"""Are the samples like held-out targets? Features, tests, results, summary, gate."""
