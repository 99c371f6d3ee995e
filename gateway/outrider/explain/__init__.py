"""Why: the plan of a tool with the place of every value, the rules that speak of a call, and what they come to.

Nothing of this is kept while calls are made: what a policy's text says where is read again when somebody asks.
"""
