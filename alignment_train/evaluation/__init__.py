"""Evaluation of models: what evals may request of a model, and the stages that run them."""
