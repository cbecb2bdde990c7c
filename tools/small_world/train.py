"""python -m tools.small_world.train MODEL: trains one model, or goes on where it was stopped."""

import argparse
from functools import partial
from pathlib import Path

from .autoencoder import train_autoencoder
from .lora import SHARES, train_lora
from .transformer import train_i2v, train_t2v, train_text

RUNS = {"vae": train_autoencoder, "text": train_text, "t2v": train_t2v, "i2v": train_i2v}
LORAS = {f"lora_{kind}": partial(train_lora, kind) for kind in SHARES}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.small_world.train", description=__doc__)
    parser.add_argument("model", choices=RUNS | LORAS)
    start = "a folder of exported files to begin with, for the models below the LoRAs; a checkpoint goes before it"
    parser.add_argument("--start", type=Path, help=start)
    arguments = parser.parse_args()
    if arguments.model in LORAS:
        LORAS[arguments.model]()
    else:
        RUNS[arguments.model](arguments.start)
