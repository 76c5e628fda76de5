"""What the report and the card are made of."""
