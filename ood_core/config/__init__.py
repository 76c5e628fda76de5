"""What a run does, as frozen records of plain values, and the identity made of them."""
