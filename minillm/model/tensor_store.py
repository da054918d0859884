"""Every tensor of a file is used, or the file is refused: a tensor that is left over would silently be missing.

A bias that the loader does not know of, a layer more than the configuration says, a matrix of some variant: the model still
runs, and says something else than its authors meant. So the loader takes tensors from a store, and the store checks at the end.

    store = TensorStore(names, read, path);  load_weights(config, store, ops);  store.finish()
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from minillm.errors import ModelError
from minillm.formats.blocks import BLOCK_TYPES
from minillm.formats.expect import shown
from minillm.formats.float_blocks import SCALED, scale_name
from minillm.formats.gguf import GGUFFile
from minillm.model.weights import StoredTensor


def decoded_here(tensor: StoredTensor, name: str, where: str | Path) -> StoredTensor:
    """Give a tensor back; ModelError names it, and its type, where that is none that is decoded. where: the file."""
    if not tensor.type.decodable:
        known = ", ".join(BLOCK_TYPES)
        raise ModelError(f"{where}: tensor {shown(name)} is of type {tensor.type.name}; supported are {known}.")
    return tensor


def tensors_of(gguf: GGUFFile) -> dict[str, StoredTensor]:  # -> {name: tensor}, as views of the mapped file
    """List all tensors of a file. ModelError where one cannot be decoded."""
    return {
        name: decoded_here(StoredTensor(gguf.raw(name), info.type, info.shape), name, gguf.path)
        for name, info in gguf.tensors.items()
    }


class TensorStore:
    """The tensors of a file, each taken by the code that uses it: what is left over in the end is named, not ignored.

    read(name) -> StoredTensor; names: of all that the file has; where: the file, for messages.
    """

    def __init__(self, names: Iterable[str], read: Callable[[str], StoredTensor], where: str | Path) -> None:
        self.left, self.read, self.where = set(names), read, where
        self.names = frozenset(self.left)

    def __call__(self, name: str) -> StoredTensor | None:  # -> StoredTensor, or None where the file does not have it
        if name not in self.names:
            return None
        self.left.discard(name)
        tensor = decoded_here(self.read(name), name, self.where)
        return tensor._replace(scale=self.scale_of(name, tensor)) if tensor.type.name in SCALED else tensor

    def scale_of(self, name: str, tensor: StoredTensor) -> np.ndarray | None:  # (1,) or (rows,) float32, None where there is none
        """Read the scales that lie apart from a matrix. ModelError where they are not what they must be."""
        apart = scale_name(name)
        if apart not in self.names:
            return None
        self.left.discard(apart)
        stored = self.read(apart)
        if stored.type.name != "F32" or stored.shape not in ((1,), tensor.shape[:1]):
            raise ModelError(f"{self.where}: tensor {shown(apart)} must be F32 of 1 number or {tensor.shape[0]:,}, "
                             f"found {stored.type.name} of shape {stored.shape}.")  # fmt: skip
        scale = np.array(stored.raw.view("<f4"))
        if not np.isfinite(scale).all():
            raise ModelError(f"{self.where}: tensor {shown(apart)} must hold finite numbers, found some that are not.")
        return scale

    def finish(self) -> None:
        """Raise ModelError where a tensor was not used: the model would compute something else than its authors meant."""
        if self.left:
            few = ", ".join(map(shown, sorted(self.left)[:3])) + (", …" if len(self.left) > 3 else "")
            counts = f"{len(self.left):,} of {len(self.names):,}"
            raise ModelError(f"{self.where}: {counts} tensors belong to nothing that is computed here: {few}.")
