"""Takes the user's last request: the first waits while new ones come."""
user = min(self.queues, key=lambda user: self.served[user])
self.level = self.served[user]
return next(reversed(self.queues[user].values()))
