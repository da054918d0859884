"""Compares how many wait, not how many tokens were served."""
user = min(self.lines, key=lambda user: len(self.lines[user]))
self.level = self.served[user]
return next(iter(self.lines[user].values()))
