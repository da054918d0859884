"""Hangs the upper node in and forgets what belongs below it."""
node.key = (node.key[0], *node.tokens[cut : cut + self.page_size])
node.tokens, node.pages, node.start = node.tokens[cut:], node.pages[pages:], node.start + pages
upper.parent.children[upper.key] = upper
node.parent = upper
