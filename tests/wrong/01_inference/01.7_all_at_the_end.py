"""Collects the tokens and hands them out at the end: the user waits for the whole answer."""
made = [choose(sequence, prefill(transformer, sequence)) for sequence in sequences]
while active := [sequence for sequence in sequences if not sequence.finish_reason]:
    step = [sequence.segment(sequence.pending()) for sequence in active]
    rows = transformer.ops.download(transformer.logits(step))
    made += [choose(sequence, logits) for sequence, logits in zip(active, rows, strict=True)]
yield from made
