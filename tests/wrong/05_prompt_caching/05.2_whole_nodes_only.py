"""Drops a node that agrees in part."""
while child := node.children.get((salt, *tokens[done : done + size])):
    same = common_pages(child.tokens, tokens[done : done + len(child.tokens)], size)
    if same < len(child.pages):
        break
    found.append((child, same))
    node, done = child, done + len(child.tokens)
