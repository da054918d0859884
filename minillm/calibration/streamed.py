"""A model whose layers are read from the file when their turn comes: to quantize one, no more than a layer need be in memory.

The forward pass, layer after layer, asks for `layers[i]` once. Here that decodes the matrices of layer i into float32 arrays,
which are gone when the caller lets go of them; the embedding decodes the rows that are looked up. Everything is checked when the
file is opened, as for any model.

    matrices of a 7B model in float32: 28 GB, of one layer: 0.8 GB
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, cast, overload

import numpy as np

from minillm.backends import numpy_
from minillm.backends.ops import ops_of
from minillm.formats.blocks import dequantize
from minillm.formats.expect import from_file
from minillm.formats.gguf import GGUFFile
from minillm.model.tensor_store import TensorStore
from minillm.model.transformer import Transformer
from minillm.model.weights import LayerWeights, StoredTensor, config_from_gguf, load_weights


class StreamedLayers(Sequence[LayerWeights]):
    """Layers that are decoded each time they are asked for. source: the open file, whose pages go back to the system."""

    def __init__(self, stored: list[LayerWeights], source: GGUFFile) -> None:
        self.stored, self.source = stored, source

    def __len__(self) -> int:
        return len(self.stored)

    @overload
    def __getitem__(self, index: int) -> LayerWeights: ...
    @overload
    def __getitem__(self, index: slice) -> list[LayerWeights]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        decoded = LayerWeights(**{f.name: decode(getattr(self.stored[index], f.name)) for f in fields(LayerWeights)})
        self.source.release_pages()
        return decoded

    def __iter__(self) -> Iterator[LayerWeights]:
        return (self[i] for i in range(len(self)))


class StreamedRows:
    """A matrix of which rows are decoded: what `embed` needs of an embedding."""

    def __init__(self, tensor: StoredTensor) -> None:
        self.tensor, self.shape = tensor, tensor.shape

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:  # (n,) int -> (n, columns) float32
        columns = self.shape[1]
        table = self.tensor.raw.reshape(self.shape[0], self.tensor.type.nbytes((1, columns)))
        return dequantize(np.ascontiguousarray(table[rows]).reshape(-1), self.tensor.type, (len(rows), columns))


def decode(weight: Any) -> Any:
    """Decode a matrix of a file; a vector is floats already, and None stays None."""
    return numpy_.load_matrix(weight) if isinstance(weight, StoredTensor) else weight


def keep_matrices(tensor: StoredTensor) -> StoredTensor | np.ndarray:
    return tensor if len(tensor.shape) > 1 else numpy_.load_matrix(tensor)


def streamed_model(source: GGUFFile) -> Transformer:
    """Open a model of a file that stays open. On the numpy backend, without a head: it serves to walk through the layers.

    ModelError as for any model: a tensor that is missing, left over, of another shape or of a type that is not decoded.
    """
    with from_file(source.path):
        config = config_from_gguf(source)
        read = {name: StoredTensor(source.raw(name), info.type, info.shape) for name, info in source.tensors.items()}
        store = TensorStore(read, read.__getitem__, source.path)
        ops = ops_of(numpy_)
        weights = load_weights(config, store, replace(ops, load_matrix=keep_matrices))
        store.finish()
        layers = StreamedLayers(weights.layers, source)
        weights = replace(weights, embedding=StreamedRows(cast(StoredTensor, weights.embedding)), layers=[], head=None)
        model = Transformer(config, weights, ops)
    model.weights.layers = layers
    return model
