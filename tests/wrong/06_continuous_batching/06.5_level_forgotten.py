"""Newcomers begin at nothing: who stays away saves up."""
user = min(self.queues, key=lambda user: self.served[user])
return next(iter(self.queues[user].values()))
