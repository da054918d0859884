"""Gives the upper node its share and takes nothing from the lower."""
node.key = (node.key[0], *node.tokens[cut : cut + self.page_size])
upper.parent.children[upper.key] = upper
upper.children[node.key] = node
node.parent = upper
