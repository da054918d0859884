"""Feeds a token before it asks whether that was the last: one forward pass too many for each answer."""
for sequence in sequences:
    yield choose(sequence, prefill(transformer, sequence))
active = list(sequences)
while active:
    step = [sequence.segment(sequence.pending()) for sequence in active]
    rows = transformer.ops.download(transformer.logits(step))
    going = [(sequence, logits) for sequence, logits in zip(active, rows, strict=True) if not sequence.finish_reason]
    for sequence, logits in going:
        yield choose(sequence, logits)
    active = [sequence for sequence, _ in going]
