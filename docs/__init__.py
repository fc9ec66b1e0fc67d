"""The pages of the documentation, and what generates their tables from the code."""
