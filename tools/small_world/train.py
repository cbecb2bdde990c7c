"""python -m tools.small_world.train vae|t2v|i2v: trains one model, or goes on where it was stopped."""

import argparse
from pathlib import Path

from .autoencoder import train_autoencoder
from .transformer import train_i2v, train_t2v

RUNS = {"vae": train_autoencoder, "t2v": train_t2v, "i2v": train_i2v}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.small_world.train", description=__doc__)
    parser.add_argument("model", choices=RUNS)
    start = "a folder of exported files to begin with; a run that has a checkpoint goes on from that"
    parser.add_argument("--start", type=Path, help=start)
    arguments = parser.parse_args()
    RUNS[arguments.model](arguments.start)
