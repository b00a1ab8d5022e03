"""Example plug-ins for Isogloss."""
