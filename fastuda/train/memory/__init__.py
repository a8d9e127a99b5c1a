"""The peak memory of a run: forecast without a GPU, measured on one, and what fits it into a card."""
