"""Open whatever a user names: a known model, a .gguf file, a folder from a hub; get back a model that runs.

    transformer, tokenizer = load_model("smollm2-135m")
"""

from minillm.backends import get_backend
from minillm.errors import ModelError
from minillm.formats.gguf import open_gguf
from minillm.model import zoo
from minillm.model.tokenizer import Tokenizer
from minillm.model.transformer import Transformer
from minillm.model.weights import StoredTensor, config_from_gguf, load_weights


def read_config(path):  # path -> ModelConfig
    """The shape of a model without its weights."""
    if path.is_dir():
        from minillm.model.hf_folder import folder_config

        return folder_config(path)
    with open_gguf(path) as gguf:
        return config_from_gguf(gguf)


def load_model(name, backend=None):  # str or path, str -> (Transformer, Tokenizer)
    """Load a model by name or path. Weights are read once; the file is closed again where the backend copies them."""
    path, ops = zoo.resolve(name), get_backend(backend)
    if path.is_dir():
        from minillm.model.hf_folder import load_folder

        return load_folder(path, ops)
    with open_gguf(path) as gguf:
        config = config_from_gguf(gguf)

        def tensor(name):
            info = gguf.tensors.get(name)
            return info and StoredTensor(gguf.raw(name), info.type, info.shape)

        tokenizer = Tokenizer.from_gguf(gguf.metadata)
        if tokenizer.vocab_size > config.vocab_size:
            raise ModelError(f"{path}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model {config.vocab_size:,}.")
        return Transformer(config, load_weights(config, tensor, ops), ops), tokenizer
