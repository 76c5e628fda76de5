"""Prefect: flows, schedules, services."""
