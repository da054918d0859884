"""Feeds the prompt and the whole answer in each step, though the cache holds them."""
for sequence in sequences:
    yield choose(sequence, prefill(transformer, sequence))
while active := [sequence for sequence in sequences if not sequence.finish_reason]:
    step = [Segment(s.prompt_token_ids + s.token_ids, 0, s.cache) for s in active]
    for sequence, logits in zip(active, transformer.ops.download(transformer.logits(step)), strict=True):
        yield choose(sequence, logits)
