"""Among equals takes the line that began last: a stream of newcomers starves the others."""
user = min(reversed(self.queues), key=lambda user: self.served[user])
self.level = self.served[user]
return next(iter(self.queues[user].values()))
