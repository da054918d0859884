"""Looks for the poorest among all users, also those without a request."""
user = min(self.served, key=self.served.get)
self.level = self.served[user]
return next(iter(self.queues[user].values()))
