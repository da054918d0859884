"""Prefers who had most."""
user = max(self.queues, key=lambda user: self.served[user])
self.level = self.served[user]
return next(iter(self.queues[user].values()))
