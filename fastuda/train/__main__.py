"""``python -m fastuda.train --method sdca --amp``: see --help."""

from fastuda.train.config import parse
from fastuda.train.loop import train
from fastuda.train.memory_bundle import bundled
from fastuda.train.restore import one_sentence

if __name__ == "__main__":
    with one_sentence():
        train(bundled(parse()))
