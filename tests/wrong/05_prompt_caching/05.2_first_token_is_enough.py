"""Chooses the child by its first token: pages of two children may begin with the same one."""
while done < len(tokens):
    mine = [child for key, child in node.children.items() if key[:2] == (salt, tokens[done])]
    same = common_pages(mine[0].tokens, tokens[done : done + len(mine[0].tokens)], size) if mine else 0
    if not same:
        break
    found.append((mine[0], same))
    if same < len(mine[0].pages):
        break
    node, done = mine[0], done + len(mine[0].tokens)
