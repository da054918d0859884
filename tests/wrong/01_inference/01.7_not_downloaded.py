"""Takes the backend's logits for NumPy's: right with the NumPy backend alone."""
for sequence in sequences:
    yield choose(sequence, prefill(transformer, sequence))
while active := [sequence for sequence in sequences if not sequence.finish_reason]:
    step = [sequence.segment(sequence.pending()) for sequence in active]
    for sequence, logits in zip(active, transformer.logits(step), strict=True):
        yield choose(sequence, logits)
