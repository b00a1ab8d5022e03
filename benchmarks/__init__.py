"""Figures of the README, and how to make them again. Results that were measured lie under results/."""
