"""Diffusion: a noise schedule, a denoiser, a solver and one integrator for both directions."""
