"""Compares how many wait, not how many tokens were served."""
user = min(self.queues, key=lambda user: len(self.queues[user]))
self.level = self.served[user]
return next(iter(self.queues[user].values()))
