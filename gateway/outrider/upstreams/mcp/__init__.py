"""MCP servers as upstreams: Outrider as their client.

caller      the caller's side of a call, where it is an MCP client too
transport   one way to a server (streamable HTTP, stdio), as the driver sees it
"""
