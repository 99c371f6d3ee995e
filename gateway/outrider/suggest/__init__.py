"""A starting policy out of what the ledger saw: ``outrider suggest``.

seen       reads the ledger once, and keeps counts (bounded, however long it is)
guesses    what a tool's effect is, what a timeout or a limit should be: each with its reason
carried    what the policy in force says, and people therefore said already
written    the text, with each guess marked for review
"""
