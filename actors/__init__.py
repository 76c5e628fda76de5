"""Where the line runs: workers that hold a model and write shards, and the pools that hold workers."""
