"""The clerks: one of each framework that takes part, all with the same functions, the same duties and the same script.

duties    what they are asked, and what their scripted model says   functions   their tools, which fail
langgraph, crewai, autogen   the clerks of one framework            __main__    a process with them
office    the clerks' processes, asked all at once                  chorus      one line for each of their calls
act       what is played with them under Outrider                   compare     the figures, the claims, the table
choice    which frameworks take part

Of these only ``langgraph``, ``crewai`` and ``autogen`` import a framework, each its own.
"""
