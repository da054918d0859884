"""Prefers who had most."""
user = max(self.lines, key=lambda user: self.served[user])
self.level = self.served[user]
return next(iter(self.lines[user].values()))
