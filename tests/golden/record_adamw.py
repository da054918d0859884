"""Record what torch's AdamW and clip_grad_norm_ make of given gradients: parameters after every step, norms, clipped values.

    python record_adamw.py [OUT.json]

Needs torch (CPU), which the tests never import; no minillm code runs here. A matrix that decays and a vector that does not,
in float64, learning rates that change from step to step, gradients from very small to large, one of them all zeros.
"""

import json
import pathlib
import sys

import numpy as np
import torch

STEPS, BETAS, EPSILON, DECAY, LARGEST = 12, (0.9, 0.95), 1e-8, 0.1, 1.0
SHAPES = {"matrix.weight": (3, 5), "norm.weight": (4,)}


def draw(stream, shape):
    """Uniform in [-1, 1), straight from the bits of PCG64."""
    count = int(np.prod(shape))
    return ((stream.random_raw(count) >> np.uint64(11)).astype(np.float64) / 2**52 - 1).reshape(shape)


def record():
    stream = np.random.PCG64(16)
    start = {name: draw(stream, shape) for name, shape in SHAPES.items()}
    rates = [1e-3 * (1 + step % 5) for step in range(STEPS)]
    sizes = [10.0 ** (step % 7 - 4) for step in range(STEPS)]
    gradients = [{name: size * draw(stream, shape) for name, shape in SHAPES.items()} for size in sizes]
    gradients[4]["norm.weight"][:] = 0.0

    tensors = {name: torch.nn.Parameter(torch.from_numpy(array.copy())) for name, array in start.items()}
    groups = [{"params": [t], "weight_decay": DECAY if t.ndim > 1 else 0.0} for t in tensors.values()]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=BETAS, eps=EPSILON)
    after = []
    for rate, gradient in zip(rates, gradients, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, tensor in tensors.items():
            tensor.grad = torch.from_numpy(gradient[name].copy())
        optimizer.step()
        after.append({name: tensor.detach().numpy().tolist() for name, tensor in tensors.items()})

    norms, clipped = [], []
    for gradient in gradients:
        for name, tensor in tensors.items():
            tensor.grad = torch.from_numpy(gradient[name].copy())
        norms.append(float(torch.nn.utils.clip_grad_norm_(tensors.values(), LARGEST)))
        clipped.append({name: tensor.grad.numpy().tolist() for name, tensor in tensors.items()})
    return {
        "torch": torch.__version__,
        "settings": {"beta1": BETAS[0], "beta2": BETAS[1], "epsilon": EPSILON, "weight_decay": DECAY, "clip": LARGEST},
        "start": {name: array.tolist() for name, array in start.items()},
        "rates": rates,
        "gradients": [{name: array.tolist() for name, array in g.items()} for g in gradients],
        "after": after,
        "norms": norms,
        "clipped": clipped,
    }


if __name__ == "__main__":
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).with_name("adamw.json"))
    out.write_text(json.dumps(record()) + "\n")
