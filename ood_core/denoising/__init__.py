"""Denoisers that know the targets: experts, calibration, steering."""
