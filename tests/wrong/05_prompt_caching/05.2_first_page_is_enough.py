"""Takes the whole node as soon as its first page agrees."""
while child := node.children.get((salt, *tokens[done : done + size])):
    same = common_pages(child.tokens, tokens[done : done + len(child.tokens)], size)
    found.append((child, len(child.pages)))
    node, done = child, done + len(child.tokens)
