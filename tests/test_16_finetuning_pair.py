"""What a text costs a model: per token, per byte, by position. The oracle asks for one token at a time, from its beginning."""

import math

import numpy as np
import pytest

from minillm.bench import pair
from minillm.model.transformer import Segment

DOCUMENTS = ["Tom had a red ball.", "Lily and Tom went to the park, and it rained all day long.", "No."]


def costs(llm, document):
    """-log p of each token after the first, each from a forward pass of its own."""
    ids = [*llm.tokenizer.encode(document), llm.tokenizer.eos_id]
    found = []
    for n in range(1, len(ids)):
        (row,) = llm.transformer.forward([Segment(ids[:n], 0, llm.transformer.new_cache())])
        row = row[0].astype(np.float64)
        found.append(-math.log(np.exp(row[ids[n]] - row.max()) / np.exp(row - row.max()).sum()))
    return found


def test_perplexity_and_bits_per_byte_of_all_documents(tiny):
    every = [cost for document in DOCUMENTS for cost in costs(tiny, document)]
    assert pair.perplexity(tiny, DOCUMENTS) == pytest.approx(math.exp(sum(every) / len(every)), rel=1e-4)
    size = sum(len(document.encode()) for document in DOCUMENTS)
    assert pair.bits_per_byte(tiny, DOCUMENTS) == pytest.approx(sum(every) / math.log(2) / size, rel=1e-4)


def test_bits_per_byte_counts_bytes_not_letters(tiny):
    document = "café ☕"
    expected = sum(costs(tiny, document)) / math.log(2) / 9  # é is two bytes, the cup three
    assert len(document) == 6 and pair.bits_per_byte(tiny, [document]) == pytest.approx(expected, rel=1e-4)


def test_by_position_has_only_documents_that_reach_the_end(tiny):
    long = [d for d in DOCUMENTS if len(costs(tiny, d)) >= 12]
    assert 0 < len(long) < len(DOCUMENTS), "the case needs some of each"
    found = pair.by_position(tiny, DOCUMENTS, [0, 4, 12])
    for name, (a, b) in {"0 to 4": (0, 4), "4 to 12": (4, 12)}.items():
        part = np.concatenate([costs(tiny, d)[a:b] for d in long])
        assert found[name] == pytest.approx(math.exp(part.mean()), rel=1e-4)
    assert list(found) == ["0 to 4", "4 to 12"]


def test_by_position_of_short_documents_alone_is_nothing(tiny):
    assert pair.by_position(tiny, DOCUMENTS, [0, 500]) == {}


def test_positions_behind_the_context_are_nothing_however_long_the_document(tiny):
    context = tiny.config.context_length
    long = " ".join(DOCUMENTS) * (1 + 2 * context // len(tiny.tokenizer.encode(" ".join(DOCUMENTS))))
    assert len(tiny.tokenizer.encode(long)) > context + 10
    assert pair.by_position(tiny, [long], [0, context // 2, context + 8]) == {}
    assert list(pair.by_position(tiny, [long], [0, context])) == [f"0 to {context}"]
