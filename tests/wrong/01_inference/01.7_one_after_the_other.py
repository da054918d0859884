"""Answers one sequence after the other: the weights are read once for each of them."""
for sequence in sequences:
    yield choose(sequence, prefill(transformer, sequence))
    while not sequence.finish_reason:
        step = [sequence.segment(sequence.pending())]
        yield choose(sequence, transformer.ops.download(transformer.logits(step))[0])
