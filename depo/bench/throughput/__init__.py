"""Samples and tokens per second beside TRL's GRPOTrainer."""
