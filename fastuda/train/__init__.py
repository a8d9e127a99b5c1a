"""The training loop, its checkpoints and scores, and the forecast of its memory."""
