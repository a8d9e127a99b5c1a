"""What a label map is in every part of this package."""

IGNORE = 255
"""The label of a pixel without a class, in uint8 label maps and by default in every operator."""
