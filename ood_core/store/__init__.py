"""The only input and output of arrays; the store alone knows what is done."""
