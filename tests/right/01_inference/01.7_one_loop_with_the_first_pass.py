"""Prefills without the helper, and keeps a list of those at work which it shortens."""
for sequence in sequences:
    rows = transformer.ops.download(transformer.logits([sequence.segment(sequence.pending())]))
    yield choose(sequence, rows[-1])
active = [sequence for sequence in sequences if sequence.finish_reason is None]
while active:
    logits = transformer.ops.download(transformer.logits([sequence.segment(sequence.pending()) for sequence in active]))
    for i in range(len(active)):
        yield choose(active[i], logits[i])
    active = [sequence for sequence in active if sequence.finish_reason is None]
