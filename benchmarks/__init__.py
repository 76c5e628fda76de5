"""Measurements of the project itself: `farfield bench` lists and runs them."""
