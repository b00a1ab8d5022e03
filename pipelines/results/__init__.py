"""The figures of an evaluation and what follows from them: measures, comparisons, contamination, summary, verdict."""
