import { Link, MeshError } from "@meshnode/client";

const db = new Link(process.argv[2] ?? "127.0.0.1:2528", { node: "db" });
try {
  await db.call("@sdb", "SET", "greeting=hello", { timeoutMs: 5000 });
  const reply = await db.call("@sdb", "GET", "greeting", { timeoutMs: 5000 });
  console.log(reply.payload.toString());
  await db.push("@sdb", "PING", "one way"); // resolves when it stands in the line of an open link
} catch (err) {
  if (!(err instanceof MeshError)) throw err;
  // not sent, rejected, maybe executed, handler failed
  console.error(`${err.verdict}: ${err.message} (${err.reason || `code ${err.code}`})`);
} finally {
  await db.close(); // sends what waits, lets calls finish
}
