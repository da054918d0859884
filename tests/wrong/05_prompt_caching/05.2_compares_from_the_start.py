"""Compares each node with the beginning of the prompt."""
while child := node.children.get((salt, *tokens[done : done + size])):
    same = common_pages(child.tokens, tokens, size)
    found.append((child, same))
    if same < len(child.pages):
        break
    node, done = child, done + len(child.tokens)
