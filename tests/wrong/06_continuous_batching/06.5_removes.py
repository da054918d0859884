"""Takes the request out of its line already when asked who is next."""
user = min(self.lines, key=lambda user: self.served[user])
self.level = self.served[user]
id, group = self.lines[user].popitem(last=False)
if not self.lines[user]:
    del self.lines[user]
return group
