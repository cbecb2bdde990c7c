"""Random layers: each function returns the named weights of one layer, as float16.

Weights are scaled by 1/sqrt(fan-in), so a layer of gain 1 keeps the variance of what it is given.
"""

import numpy as np

Weights = dict[str, np.ndarray]


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float, mean: float = 0.0) -> np.ndarray:
    return (mean + std * rng.standard_normal(shape, dtype=np.float32)).astype(np.float16)


def linear(
    rng: np.random.Generator, name: str, outputs: int, inputs: int, gain: float = 1.0, bias: bool = True
) -> Weights:
    weights = {f"{name}.weight": normal(rng, (outputs, inputs), gain / inputs**0.5)}
    # Small but not zero: a test that forgot the bias must not pass.
    return weights | ({f"{name}.bias": normal(rng, (outputs,), 0.05)} if bias else {})


def conv(
    rng: np.random.Generator, name: str, outputs: int, inputs: int, kernel: tuple[int, ...], gain: float = 1.0
) -> Weights:
    std = gain / (inputs * np.prod(kernel)) ** 0.5
    return {
        f"{name}.weight": normal(rng, (outputs, inputs, *kernel), std),
        f"{name}.bias": normal(rng, (outputs,), 0.05),
    }
