"""Takes the request out of its line already when asked who is next."""
user = min(self.queues, key=lambda user: self.served[user])
self.level = self.served[user]
id, group = self.queues[user].popitem(last=False)
if not self.queues[user]:
    del self.queues[user]
return group
