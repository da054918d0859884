"""Takes the first line, whatever its user has had."""
user = next(iter(self.queues))
self.level = self.served[user]
return next(iter(self.queues[user].values()))
