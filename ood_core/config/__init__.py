"""What a run is asked to do, as frozen records of plain values, and the identity made of them."""
