"""Stops for all when the first one has finished."""
for sequence in sequences:
    yield choose(sequence, prefill(transformer, sequence))
while not any(sequence.finish_reason for sequence in sequences):
    step = [sequence.segment(sequence.pending()) for sequence in sequences]
    for sequence, logits in zip(sequences, transformer.ops.download(transformer.logits(step)), strict=True):
        yield choose(sequence, logits)
