"""Where wanted results rest when their runner ends (scheduler)."""
