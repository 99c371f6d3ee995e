"""MCP servers as upstreams: Outrider as their client.

caller      the caller's side of a call, where it is an MCP client too
transport   one way to a server (streamable HTTP, stdio), as the driver sees it

A server that is a child:
guardian    a small process beside it, which ends it when we are gone (run as a file, never imported)
child       the process: started, read, written to, ended with all that it started; lines, child_log: what it prints
supervision when it may be started again (pure); keeper: does it; liveness: whether it still answers
stdio       the transport over its pipes          child_driver: the driver
"""
