"""Base models: how they are loaded, what is laid on them, and how conversations are rendered for them."""
