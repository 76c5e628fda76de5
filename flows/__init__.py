"""When the line runs: settings, stages, Prefect flows and the command line."""
