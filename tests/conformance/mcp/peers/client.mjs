// A client by the published TypeScript SDK 1.x: node client.mjs URL TOKEN MODE [PREFIX] prints what it got
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";

const [url, token, , prefix = ""] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${token}` };
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
const client = new Client({ name: "peer", version: "1" }, { capabilities: { elicitation: {} } });
client.setRequestHandler(ElicitRequestSchema, () => ({ action: "accept", content: { name: "Ada" } }));
await client.connect(transport);

const call = (name, args, options) =>
  client.callTool({ name: prefix + name, arguments: args }, undefined, options);
const told = [];
const tools = (await client.listTools()).tools.map((tool) => tool.name).sort();
const added = await call("add", { a: 1, b: 2 });
const failed = await call("fail", {});
const counted = await call("count", { to: 3 }, { onprogress: ({ progress }) => told.push(progress) });
const greeted = await call("greet", {});
console.log(
  JSON.stringify({
    version: transport.protocolVersion,
    tools,
    added: added.structuredContent,
    failed: [failed.isError, failed.content[0].text],
    counted: counted.content[0].text,
    progress: told,
    greeted: greeted.content[0].text,
  }),
);
await client.close();
