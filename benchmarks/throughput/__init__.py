"""depo and TRL's GRPOTrainer side by side."""
