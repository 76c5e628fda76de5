"""Laws of latents: fitted from a few dozen inverted targets, drawn from per sample seed."""
