"""RL post-training that asks a difficulty estimator which prompts are worth rolling out."""
