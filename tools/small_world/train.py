"""python -m tools.small_world.train MODEL: trains one model, or goes on where it was stopped."""

import argparse
from functools import partial
from pathlib import Path

from .autoencoder import train_autoencoder, train_decoder
from .lora import SHARES, train_lora
from .transformer import train_i2v, train_t2v, train_text

MODELS = {"decoder": train_decoder, "text": train_text, "t2v": train_t2v, "i2v": train_i2v}
LORAS = {f"lora_{kind}": partial(train_lora, kind) for kind in SHARES}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.small_world.train", description=__doc__)
    parser.add_argument("model", choices=("vae", *MODELS, *LORAS))
    start = "a folder of exported files to begin with; a checkpoint goes before it"
    parser.add_argument("--start", type=Path, help=start)
    parser.add_argument("--steps", type=int, help="of a run with --start, in place of those from nothing")
    arguments = parser.parse_args()
    if arguments.model in LORAS:
        LORAS[arguments.model](arguments.start, arguments.steps)
    elif arguments.model == "vae":
        train_autoencoder(arguments.start)
    else:
        MODELS[arguments.model](arguments.start, arguments.steps)
