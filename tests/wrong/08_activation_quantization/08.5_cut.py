"""Cuts the bits off."""
rounded = bits >> drop << drop
