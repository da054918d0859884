"""Gives the lower node a key without its salt: it cannot be found again."""
node.key = (None, *node.tokens[cut : cut + self.page_size])
node.tokens, node.pages, node.start = node.tokens[cut:], node.pages[pages:], node.start + pages
upper.parent.children[upper.key] = upper
upper.children[node.key] = node
node.parent = upper
