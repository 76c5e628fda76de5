"""Training of small base models on procedural domains; the only place where weights move."""
