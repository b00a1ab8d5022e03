"""Comparisons of recipes over seeds: cells, worker processes, and the table that joins them."""
