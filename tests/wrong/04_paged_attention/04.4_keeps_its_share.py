"""Never gives up the share of the old block."""
if self.refs[block] == 1 and block not in self.kept:
    return block, None
return self.allocate(), block
