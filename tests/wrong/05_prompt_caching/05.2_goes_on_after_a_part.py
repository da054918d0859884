"""Looks on below a node that agrees in part only."""
while child := node.children.get((salt, *tokens[done : done + size])):
    same = common_pages(child.tokens, tokens[done : done + len(child.tokens)], size)
    found.append((child, same))
    node, done = child, done + same * size
