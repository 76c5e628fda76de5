"""Where stages run: workers hold a model and write shards, pools hold workers."""
