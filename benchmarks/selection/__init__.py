"""How many rollouts does each way of choosing prompts need? Live RL on a small policy, paired seeds."""
