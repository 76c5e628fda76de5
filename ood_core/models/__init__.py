"""Frozen base models: networks, scheduler settings, loading. Only here is diffusers imported."""
