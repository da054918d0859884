"""Takes what agrees off the caller's prompt."""
while child := node.children.get((salt, *tokens[:size])):
    same = common_pages(child.tokens, tokens[: len(child.tokens)], size)
    found.append((child, same))
    if same < len(child.pages):
        break
    node = child
    del tokens[: len(child.tokens)]
