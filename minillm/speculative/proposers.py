"""The proposers by name, as `--speculate` takes them.

    ngram            what followed the last tokens the time before (lookup.py)
    suffix           the same by counting, over this text and those that ended (suffix.py)
    draft:MODEL      a small model with the same vocabulary (draft_model.py)
    self, self:N     the model's own first layers, a third of them or N
    eagle, eagle:F   a head that was trained for the model (eagle.py): the one that comes with minillm, or a file
"""

from minillm.errors import ModelError, did_you_mean
from minillm.model.load import load_model
from minillm.model.tokenizer import Tokenizer
from minillm.model.transformer import Transformer
from minillm.model.zoo import embedded_folder
from minillm.speculative.draft import EagleProposer
from minillm.speculative.draft_model import DraftModel, first_layers
from minillm.speculative.eagle import load_eagle
from minillm.speculative.lookup import PromptLookup
from minillm.speculative.proposer import Proposer
from minillm.speculative.suffix import SuffixDecoding

NAMES = ("ngram", "suffix", "draft:MODEL", "self", "eagle")
HEAD = "eagle.gguf"  # for smollm2-135m: data/models/README.md


def make_proposer(name: str, target: Transformer, tokenizer: Tokenizer) -> Proposer:
    """Make the proposer of this name for a model. ModelError for an unknown name, and for a draft of another vocabulary."""
    kind, _, rest = name.partition(":")
    if kind == "ngram" and not rest:
        return PromptLookup()
    if kind == "suffix" and not rest:
        return SuffixDecoding()
    if kind == "draft" and rest:
        return same_vocabulary(rest, target, tokenizer)
    if kind == "self":
        layers = rest or str(max(1, target.config.n_layers // 3))
        if not layers.isdecimal():
            raise ModelError(f"self:N takes a number of layers, found {rest!r}.")
        return DraftModel(first_layers(target, int(layers)), target)
    if kind == "eagle":
        return EagleProposer(load_eagle(rest or embedded_folder() / HEAD, target))
    raise ModelError(f"there is no proposer {name!r}: {did_you_mean(name, NAMES)}")


def same_vocabulary(name: str, target: Transformer, tokenizer: Tokenizer) -> DraftModel:
    """Load a draft model, and see that its tokens mean what the target's mean."""
    draft, other = load_model(name, target.ops.name, "auto")
    proposer = DraftModel(draft, target)
    ours, theirs = tokenizer.vocabulary.tokens, other.vocabulary.tokens
    for i, (own, its) in enumerate(zip(ours, theirs, strict=False)):
        if own != its:
            raise ModelError(f"{name} has other tokens than its target: token {i} is {its!r}, there {own!r}.")
    return proposer
