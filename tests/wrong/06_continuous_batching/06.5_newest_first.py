"""Takes the user's last request: the first waits while new ones come."""
user = min(self.lines, key=lambda user: self.served[user])
self.level = self.served[user]
return next(reversed(self.lines[user].values()))
