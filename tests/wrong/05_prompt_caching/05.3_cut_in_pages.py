"""Cuts tokens where pages are counted."""
node.key = (node.key[0], *node.tokens[cut : cut + self.page_size])
node.tokens, node.pages, node.start = node.tokens[pages:], node.pages[pages:], node.start + pages
upper.parent.children[upper.key] = upper
upper.children[node.key] = node
node.parent = upper
