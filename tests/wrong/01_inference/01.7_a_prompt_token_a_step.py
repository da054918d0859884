"""Feeds the prompt a token at a time, as if it were an answer."""
for sequence in sequences:
    while pending := sequence.pending():
        logits = transformer.ops.download(transformer.logits([sequence.segment(pending[:1])]))[0]
    yield choose(sequence, logits)
while active := [sequence for sequence in sequences if not sequence.finish_reason]:
    step = [sequence.segment(sequence.pending()) for sequence in active]
    for sequence, logits in zip(active, transformer.ops.download(transformer.logits(step)), strict=True):
        yield choose(sequence, logits)
