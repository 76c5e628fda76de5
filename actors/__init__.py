"""Where the line runs: workers hold a model and write shards, pools hold workers."""
