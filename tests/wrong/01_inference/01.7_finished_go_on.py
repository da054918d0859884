"""Feeds those that have finished as well, as long as one has not: their rows are computed for nothing."""
for sequence in sequences:
    yield choose(sequence, prefill(transformer, sequence))
while not all(sequence.finish_reason for sequence in sequences):
    step = [sequence.segment(sequence.pending() or sequence.token_ids[-1:]) for sequence in sequences]
    for sequence, logits in zip(sequences, transformer.ops.download(transformer.logits(step)), strict=True):
        if not sequence.finish_reason:
            yield choose(sequence, logits)
