"""Pages and plots for people: evaluation, comparison, leaderboard, ledger, data card."""
