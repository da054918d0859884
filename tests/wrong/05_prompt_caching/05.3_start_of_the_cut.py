"""Takes the cut for the start: right at the first split, where nothing lies above."""
node.key = (node.key[0], *node.tokens[cut : cut + self.page_size])
node.tokens, node.pages, node.start = node.tokens[cut:], node.pages[pages:], pages
upper.parent.children[upper.key] = upper
upper.children[node.key] = node
node.parent = upper
