"""Imported by the process that drivers are forked from: what the first run of a process loads."""

from diffusers import DDIMScheduler, UNet2DModel  # noqa: F401
