"""Ask Gemini the same question about every image in a BigQuery table, pay for each answer once, account for every row."""

__version__ = "0.1.0"
