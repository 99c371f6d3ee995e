"""Raw HTTP for agents: ``ANY /http/{upstream}/{path}``. A request is read as the tool that it is (``target``,
``routes``, ``arguments``), passes the pipeline as a call of it, and its answer goes out as it comes (``exchange``)."""
