"""Counts to max_tokens: stop tokens and the end of the context are not looked at."""
for sequence in sequences:
    yield choose(sequence, prefill(transformer, sequence))
while active := [s for s in sequences if len(s.token_ids) < s.params.max_tokens]:
    step = [sequence.segment(sequence.pending()) for sequence in active]
    for sequence, logits in zip(active, transformer.ops.download(transformer.logits(step)), strict=True):
        yield choose(sequence, logits)
