"""Newcomers begin at nothing: who stays away saves up."""
user = min(self.lines, key=lambda user: self.served[user])
return next(iter(self.lines[user].values()))
