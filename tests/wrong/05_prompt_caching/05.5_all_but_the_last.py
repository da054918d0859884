"""Takes all but the last token, though only full blocks are cached."""
return list(tokens[:-1])
