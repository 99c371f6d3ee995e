"""Outrider as an MCP server: any MCP client goes through it by changing one URL.

inbound    what a request is, in which era, and what is wrong with it: pure
endpoint   the routes; legacy sessions are in ``sessions``
answering  one answer: JSON, or a stream of events once something is told before it
calling    the caller's side of a call under way
listing    which tools an agent is shown, of one upstream or of all
streams    what stays open: subscriptions, and the stream of a legacy session
metadata   where a client that was turned away learns which credential is wanted
replies    outcomes as results and errors
"""
