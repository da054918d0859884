"""Sets the level to the least that anybody was served, also those who do not wait."""
user = min(self.queues, key=self.served.get)
self.level = min(self.served.values())
return next(iter(self.queues[user].values()))
