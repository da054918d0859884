"""Makes the upper node and leaves the old one in its place."""
node.key = (node.key[0], *node.tokens[cut : cut + self.page_size])
node.tokens, node.pages, node.start = node.tokens[cut:], node.pages[pages:], node.start + pages
upper.children[node.key] = node
node.parent = upper
