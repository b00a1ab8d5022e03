"""Functions from text to numbers and back: characters, normalisation, match keys, near duplicates."""
