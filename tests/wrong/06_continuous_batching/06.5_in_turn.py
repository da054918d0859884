"""Takes the first line, whatever its user has had."""
user = next(iter(self.lines))
self.level = self.served[user]
return next(iter(self.lines[user].values()))
