"""Leaves the lower node under its old key."""
node.tokens, node.pages, node.start = node.tokens[cut:], node.pages[pages:], node.start + pages
upper.parent.children[upper.key] = upper
upper.children[node.key] = node
node.parent = upper
