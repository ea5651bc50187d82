"""Selection on a real language model, end to end."""
