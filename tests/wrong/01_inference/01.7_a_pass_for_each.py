"""Goes round the sequences, with a forward pass for each."""
for sequence in sequences:
    yield choose(sequence, prefill(transformer, sequence))
while active := [sequence for sequence in sequences if not sequence.finish_reason]:
    for sequence in active:
        step = [sequence.segment(sequence.pending())]
        yield choose(sequence, transformer.ops.download(transformer.logits(step))[0])
