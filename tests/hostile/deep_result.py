"""Returns a list in a list in a list, a hundred thousand deep."""
deep = []
for _ in range(100_000):
    deep = [deep]
return deep
