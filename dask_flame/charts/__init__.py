"""What the pages and the notebook draw alike: colors, ranking, curves, axes."""
