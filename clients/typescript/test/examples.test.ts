// The examples against a real node, and the README against the examples.

import assert from "node:assert/strict";
import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const here = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const run = promisify(execFile);

function hasGo(): boolean {
  try {
    execFileSync("go", ["version"]);
    return true;
  } catch {
    return false;
  }
}

test("the README shows the examples as they are", () => {
  const readme = readFileSync(here("README.md"), "utf8");
  for (const [, path, code] of readme.matchAll(/<!-- readme: (\S+) -->\n```ts\n([^]*?)```/g)) {
    assert.equal(code, readFileSync(here(path!), "utf8"), path);
  }
  assert.equal([...readme.matchAll(/<!-- readme: /g)].length, 3);
});

describe("with a real node", { skip: hasGo() ? false : "go is not installed" }, () => {
  const dir = mkdtempSync(join(tmpdir(), "meshnode-ts-"));
  const meshnode = process.env["MESHNODE"] ?? join(dir, "meshnode");
  let node: ChildProcess;
  let link: string;
  let allowsServe = false;

  before(async () => {
    if (!process.env["MESHNODE"]) execFileSync("go", ["build", "-o", meshnode, "./cmd/meshnode"], { cwd: here("../.."), stdio: "inherit" });
    allowsServe = execFileSync(meshnode, ["serve", "--help"]).includes("--allow-serve");
    const allow = allowsServe ? ["--allow-serve"] : [];
    node = spawn(meshnode, ["serve", "--listen", "127.0.0.1:0", "--example", "simpledb", ...allow, "--log", "json"], { stdio: ["ignore", "ignore", "pipe"] });
    link = await listening(node);
  });

  after(async () => {
    if (node && node.exitCode === null) {
      node.kill("SIGTERM");
      await once(node, "exit");
    }
    rmSync(dir, { recursive: true, force: true });
  });

  test("call.ts and stub.ts", async () => {
    const { stdout, stderr } = await run(process.execPath, [here("build/examples/call.js"), link], { timeout: 20_000 });
    assert.equal(stdout, "hello\n", stderr);
    const gateway = spawn(meshnode, ["serve", "--gateway", "127.0.0.1:0", "--node", `db=${link}`, "--log", "json"], { stdio: ["ignore", "ignore", "pipe"] });
    try {
      const address = await listening(gateway);
      const got = await run(process.execPath, [here("build/examples/stub.js"), address], { timeout: 20_000 });
      assert.equal(got.stdout, "hello\n", got.stderr);
    } finally {
      gateway.kill("SIGTERM");
      await once(gateway, "exit");
    }
  });

  test("serve.ts", async (t) => {
    if (!allowsServe) return t.skip("this meshnode does not listen for Serve yet");
    const program = spawn(process.execPath, [here("build/examples/serve.js"), link], { stdio: ["ignore", "pipe", "inherit"] });
    try {
      const [line] = (await once(createInterface({ input: program.stdout! }), "line")) as [string];
      assert.equal(line, "@model is registered");
      const { stdout } = await run(meshnode, ["call", "--node", `db=${link}`, "db@model", "UPPER", "hello"], { timeout: 20_000 });
      assert.equal(stdout, "HELLO");
      await assert.rejects(run(meshnode, ["call", "--node", `db=${link}`, "db@model", "DANCE", ""], { timeout: 20_000 }), /there is no DANCE/);
    } finally {
      program.kill("SIGTERM");
      const [code] = (await once(program, "exit")) as [number];
      assert.equal(code, 0);
    }
  });
});

/** The address at which a node's log says that it listens. */
async function listening(node: ChildProcess): Promise<string> {
  const log: string[] = [];
  for await (const line of createInterface({ input: node.stderr! })) {
    log.push(line);
    const entry = (line.startsWith("{") ? JSON.parse(line) : {}) as { msg?: string; addr?: string };
    if (!entry.msg?.endsWith("listening") || !entry.addr) continue;
    node.stderr!.resume();
    return entry.addr;
  }
  throw new Error(`the node ended: ${log.join("\n")}`);
}
