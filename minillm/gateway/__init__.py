"""Floor 7: what stands between an application and the engine: sessions that keep their prefix."""
