"""Finds what was cached without a salt, and nothing else."""
while child := node.children.get((None, *tokens[done : done + size])):
    same = common_pages(child.tokens, tokens[done : done + len(child.tokens)], size)
    found.append((child, same))
    if same < len(child.pages):
        break
    node, done = child, done + len(child.tokens)
