"""Among equals takes the request that came first: the line that began first is next."""
user = min(self.queues, key=lambda user: (self.served[user], next(iter(self.queues[user]))))
self.level = self.served[user]
return next(iter(self.queues[user].values()))
