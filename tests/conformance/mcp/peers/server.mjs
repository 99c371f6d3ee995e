// A server by the published TypeScript SDK 1.x, with a session for each client: node server.mjs PORT
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { ElicitResultSchema } from "@modelcontextprotocol/sdk/types.js";
import { z } from "zod";

const text = (said) => ({ content: [{ type: "text", text: said }] });

function made() {
  const server = new McpServer({ name: "peer", version: "1" });
  const numbers = { a: z.number(), b: z.number() };
  server.registerTool("add", { inputSchema: numbers, outputSchema: { result: z.number() } }, ({ a, b }) => ({
    ...text(String(a + b)),
    structuredContent: { result: a + b },
  }));
  server.registerTool("fail", {}, () => {
    throw new Error("no room");
  });
  server.registerTool("count", { inputSchema: { to: z.number() } }, async ({ to }, extra) => {
    const progressToken = extra._meta?.progressToken;
    for (let progress = 1; progressToken !== undefined && progress <= to; progress += 1) {
      await extra.sendNotification({
        method: "notifications/progress",
        params: { progressToken, progress, total: to },
      });
    }
    return text("counted");
  });
  server.registerTool("greet", {}, async (extra) => {
    const properties = { name: { type: "string" } };
    const params = { message: "Who?", requestedSchema: { type: "object", properties, required: ["name"] } };
    const answer = await extra.sendRequest({ method: "elicitation/create", params }, ElicitResultSchema);
    return text(answer.action === "accept" ? `hello ${answer.content.name}` : answer.action);
  });
  return server;
}

const open = new Map();

createServer(async (request, response) => {
  const known = open.get(request.headers["mcp-session-id"]);
  if (known !== undefined) return known.handleRequest(request, response);
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: () => randomUUID(),
    onsessioninitialized: (id) => open.set(id, transport),
  });
  await made().connect(transport);
  return transport.handleRequest(request, response);
}).listen(Number(process.argv[2]), "127.0.0.1");
