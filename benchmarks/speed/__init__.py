"""How fast it is, how it scales, what memory it takes."""
