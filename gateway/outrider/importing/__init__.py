"""A starting policy from what a service says of itself.

document    an OpenAPI file as data, bounded
openapi     the operations that it declares: templates, names, credentials
mcp         the tools that an MCP server offers, asked of the server
written     the policy's text: guesses with their reasons, marked for review
"""
