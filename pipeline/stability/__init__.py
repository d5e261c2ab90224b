"""How much of a view a small edit of the text changes."""
