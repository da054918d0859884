"""Goes through `served` for the poorest: among equals that is who was charged longest ago."""
user = min((user for user in self.served if user in self.queues), key=self.served.get)
self.level = self.served[user]
return next(iter(self.queues[user].values()))
