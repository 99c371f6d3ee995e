"""Where tools live, one file a kind."""
