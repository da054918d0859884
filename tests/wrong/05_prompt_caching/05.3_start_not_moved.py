"""Forgets that the lower node begins later now."""
node.key = (node.key[0], *node.tokens[cut : cut + self.page_size])
node.tokens, node.pages, node.start = node.tokens[cut:], node.pages[pages:], node.start
upper.parent.children[upper.key] = upper
upper.children[node.key] = node
node.parent = upper
