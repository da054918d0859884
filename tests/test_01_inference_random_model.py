"""The random model: it runs at any shape, its weights depend on the seed alone, and its tokenizer loses nothing."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm import LLM, SamplingParams
from minillm.errors import ModelError
from minillm.model.random_model import TINY, byte_tokenizer, random_model, random_tensor, tensor_shapes

SMALL = replace(TINY, n_layers=2, d_model=24, n_heads=4, n_kv_heads=2, d_head=6, d_ff=20, vocab_size=259, context_length=64)
SHAPES = {
    "plain": SMALL,
    "untied": replace(SMALL, tied=False),
    "mha": replace(SMALL, n_kv_heads=4),
    "mqa": replace(SMALL, n_kv_heads=1, n_layers=1),
    "bias": replace(SMALL, qkv_bias=True),
    "qk norm": replace(SMALL, qk_norm=True, rope_interleaved=False),
}


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_every_shape_generates_and_counts_its_parameters(config):
    llm = LLM(random_model(config))
    done = llm.generate([5, 6, 7], SamplingParams(max_tokens=6, ignore_eos=True))
    assert len(done.token_ids) == 6 and llm.config is config
    assert sum(np.prod(shape) for shape in tensor_shapes(config).values()) == config.parameters()


def test_the_seed_decides_and_logits_are_of_a_sane_size():
    def logits(seed):
        transformer, _ = random_model(SMALL, seed)
        from minillm.model.transformer import Segment

        return transformer.forward([Segment([1, 2, 3], 0, transformer.new_cache(), logits="all")])[0]

    assert np.array_equal(logits(1), logits(1)) and not np.array_equal(logits(1), logits(2))
    assert 0.1 < logits(1).std() < 10


def test_weights_are_the_same_on_every_machine():
    w = random_tensor("token_embd.weight", (259, 24), seed=0)
    assert w.dtype == np.float32 and abs(w.std() * np.sqrt(24) - 1) < 0.05 and abs(w.mean()) < 0.02
    assert (w[0, :3] * 1024).tolist() == [287.4263000488281, -331.9726867675781, 323.7780456542969]
    assert not np.array_equal(w, random_tensor("output.weight", (259, 24), seed=0))


@given(st.text(max_size=20))
def test_the_tokenizer_gives_every_text_back(text):
    tokenizer = byte_tokenizer(300)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text.encode()) and tokenizer.decode(ids) == text


def test_every_id_of_the_vocabulary_has_a_text_and_the_chat_template_ends_turns():
    tokenizer = byte_tokenizer(300)
    assert tokenizer.decode(range(300)) and tokenizer.decode([299]) == "[299]"
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi<|im_end|>"}])
    assert ids.count(258) == 1, "a message cannot end its own turn"


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ModelError, match="at least 259, found 258"):
        random_model(replace(SMALL, vocab_size=258))
