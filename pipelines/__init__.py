"""Text: from public parallel corpora to the Arrow shards that training reads. Imports neither Dagster nor torch."""
