"""What users' own tests import: a gateway as a real process, a scripted upstream, pytest fixtures.

outrider.testing.gateway           GatewayProcess
outrider.testing.upstream          ScriptedUpstream (in-process), ``python -m outrider.testing.upstream``
outrider.testing.upstream_process  UpstreamProcess (the same as a process)
outrider.testing.script            what a scripted upstream can do: respond, hang, reset, truncate, …
outrider.testing.conformance       AdapterSuite: the promises of an adapter, for a framework of one's own
outrider.testing.pytest_plugin     fixtures; opt in with pytest_plugins = ["outrider.testing.pytest_plugin"]
"""
