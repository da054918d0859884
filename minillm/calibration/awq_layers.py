"""AWQ over a model: for each layer, scales from its inputs, folded into what comes before; then matrices clipped and rounded.

    awq = LayerwiseAWQ(grid)
    for layer in quantize_layers(transformer, chunks, awq.quantize, awq.prepare):        layers.py walks
        layer.matrices, layer.weights.attn_norm …                                        norms and biases have changed too

`prepare` sees the layer in float. It searches the scales of one fold after another (folding.py) on the inputs of the whole text,
by way of their Hessian, so that a token with huge activations is not missed by a sample. `quantize` clips (not q and k, as the
authors: scores feel it too much) and rounds to nearest. Lin et al. 2023, arXiv:2306.00978; their code: auto_scale.py, auto_clip.py.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray as Array

from minillm.calibration.folding import FOLDS, folded, shared
from minillm.calibration.inputs import Inputs
from minillm.calibration.layers import OpenLayer
from minillm.quantization.affine import AffineMatrix, Grid, round_to_nearest
from minillm.quantization.awq import STEPS, awq_scales, clip

UNCLIPPED = ("attn_q", "attn_k")


@dataclass
class LayerwiseAWQ:
    """AWQ for quantize_layers. clipping: False leaves the largest weights. scales: what was folded, {name: (columns,)}."""

    grid: Grid
    clipping: bool = True
    steps: int = STEPS
    scales: dict[str, Array] = field(default_factory=dict)

    def prepare(self, layer: OpenLayer) -> None:
        """Fold scales into a layer that is still in float: it computes what it did, and rounds better."""
        config = layer.model.config
        for fold in FOLDS:
            inputs = layer.inputs(fold.stem)
            magnitudes = shared(inputs.mean_abs, config) if fold.before == "v" else inputs.mean_abs
            matrices = [getattr(layer.weights, name) for name in fold.matrices]
            scales = awq_scales(matrices, magnitudes, factor(inputs), self.grid, self.steps)
            layer.weights = folded(layer.weights, fold, scales, config)
            self.scales[layer.name(fold.stem)] = scales

    def quantize(self, name: str, weights: Array, inputs: Inputs) -> AffineMatrix:  # GGUF's name, (rows, columns)
        """Clip and round a matrix that has its scales."""
        if self.clipping and name.split(".")[-2] not in UNCLIPPED:
            weights = clip(weights, factor(inputs), self.grid)
        return round_to_nearest(weights, self.grid)


def factor(inputs: Inputs) -> Array:  # -> (columns, columns) float32: R with RᵀR = H
    """Make as many inputs as there are columns that stand for all: every weight error costs the same on them (times 2/n)."""
    hessian = inputs.hessian
    damping = 1e-8 * hessian.trace() / len(hessian) or 1.0  # a text shorter than a row is wide leaves directions unseen
    return np.linalg.cholesky(hessian + damping * np.eye(len(hessian))).T.astype(np.float32)
