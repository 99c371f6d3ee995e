"""Policy: how each tool is called, and who may call it."""
