"""python -m tools.demo_models MODELS_DIR"""

import argparse
from pathlib import Path

from . import build_demo_models, link_world_models

parser = argparse.ArgumentParser(
    prog="python -m tools.demo_models", description="Build the tiny demo models, and link the trained ones."
)
parser.add_argument("models_dir", type=Path, help="ComfyUI's models folder")
models_dir = parser.parse_args().models_dir
for path in (*build_demo_models(models_dir), *link_world_models(models_dir)):
    print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
