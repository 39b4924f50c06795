"""Pictures of a street with a known truth: drawn, and looked at."""
