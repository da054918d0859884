"""Counts uses alone: each page costs the same."""
return node.age + node.uses
