"""From targets to samples: latents, draws, and the synthesizer made of them."""
