"""The training loop and what it needs: batches, guards, gradients, distribution, the progress log."""
