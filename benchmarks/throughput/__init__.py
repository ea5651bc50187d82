"""depo and TRL's GRPOTrainer side by side: end to end, the update alone, and what depo's driver costs.

Every measurement is a process of its own, so that start-up time and peak memory are what a user gets. The
two sides alternate, and the order is swapped from one repeat to the next.
"""
