// The driver of the conformance kit (test/conformance/README.md): it reads ops
// as JSON lines from stdin, carries them out, and writes answers and events to
// stdout. It knows no case.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

import { Metadata, type status } from "@grpc/grpc-js";

import * as wire from "../src/gen/mesh/v1/cluster.js";
import { type Incoming, Link, MeshError, type Reply, Serve, StatusError } from "../src/index.js";

type Op = Record<string, any> & { id: number; op: string };
type Pairs = [string, string][];

const links = new Map<string, Link>();
const serves = new Map<string, Serve>();
const calls = new Map<number, AbortController>();
const requests = new Map<number, (answer: Op) => void>();
let lastRequest = 0;

function say(line: object): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

function payloadOf(op: Op): Buffer {
  if (op.data !== undefined) return Buffer.from(op.data, "base64");
  if (op.fill === undefined) return Buffer.alloc(0);
  const { size, seed } = op.fill as { size: number; seed: number };
  const bytes = Buffer.allocUnsafe(size);
  for (let i = 0; i < size; i++) bytes[i] = (i * 31 + (i >> 8) * 7 + seed) & 255;
  return bytes;
}

function shown(payload: Buffer): object {
  return {
    size: payload.length,
    sha256: createHash("sha256").update(payload).digest("hex"),
    ...(payload.length <= 4096 ? { data: payload.toString("base64") } : {}),
  };
}

function metadataOf(pairs: Pairs | undefined): Metadata {
  const metadata = new Metadata();
  for (const [key, value] of pairs ?? []) metadata.add(key, key.endsWith("-bin") ? Buffer.from(value, "base64") : value);
  return metadata;
}

function pairsOf(metadata: Metadata): Pairs {
  return Object.keys(metadata.getMap()).flatMap((key) =>
    metadata.get(key).map((value): [string, string] => [key, typeof value === "string" ? value : value.toString("base64")]),
  );
}

/** The helper's options of an op: those that are left out or 0 are its defaults. */
function optionsOf(op: Op): object {
  const names = {
    process: "process",
    heartbeat_interval_ms: "heartbeatIntervalMs",
    max_batch_bytes: "maxBatchBytes",
    max_message_bytes: "maxMessageBytes",
    max_unfinished_bytes: "maxUnfinishedBytes",
    connect_timeout_ms: "connectTimeoutMs",
    backoff_min_ms: "backoffMinMs",
    backoff_max_ms: "backoffMaxMs",
    max_calls: "maxCalls",
    node: "node",
  };
  return Object.fromEntries(Object.entries(names).filter(([from]) => op[from]).map(([from, to]) => [to, op[from]]));
}

function sendOptions(op: Op): object {
  return {
    headers: metadataOf(op.headers),
    ...(op.timeout_ms === undefined ? {} : { timeoutMs: op.timeout_ms }),
    ...(op.trace_tag === undefined ? {} : { traceTag: op.trace_tag }),
    ...(op.wait_up === undefined ? {} : { waitUp: op.wait_up }),
  };
}

function replied(reply: Reply): object {
  return { ...shown(reply.payload), headers: pairsOf(reply.headers), trailers: pairsOf(reply.trailers) };
}

function failed(err: unknown): object {
  if (!(err instanceof MeshError)) return { verdict: "", message: err instanceof Error ? (err.stack ?? err.message) : String(err) };
  return {
    verdict: err.verdict,
    reason: err.reason,
    code: err.code,
    message: err.message,
    details: err.details.map((d) => ({ type_url: d.typeUrl, value: d.value.toString("base64") })),
    headers: pairsOf(err.headers),
    trailers: pairsOf(err.trailers),
  };
}

const hex = (handle: bigint) => handle.toString(16).padStart(16, "0");

/** The one handler of all names: it says the event and waits for its answer. */
function handle(serve: string, r: Incoming): Promise<Partial<Reply>> {
  const request = ++lastRequest;
  say({
    event: "request",
    serve,
    request,
    name: r.name,
    method: r.method,
    ...shown(r.payload),
    push: r.push,
    headers: pairsOf(r.headers),
    trace_tag: r.traceTag,
    ...(r.timeLeftMs === undefined ? {} : { time_left_ms: Math.floor(r.timeLeftMs) }),
  });
  return new Promise((resolve, reject) => {
    r.signal.addEventListener("abort", () => {
      if (!requests.delete(request)) return;
      say({ event: "cancelled", request });
      reject(new Error("the context ended"));
    });
    requests.set(request, (answer) => {
      requests.delete(request);
      const headers = metadataOf(answer.headers);
      const trailers = metadataOf(answer.trailers);
      if (answer.panic !== undefined) return reject(new Error(answer.panic));
      if (answer.error === undefined) return resolve({ payload: payloadOf(answer), headers, trailers });
      const { code, message, details } = answer.error as { code: status; message?: string; details?: { type_url: string; value: string }[] };
      reject(
        new StatusError(code, message ?? "", {
          details: (details ?? []).map((d) => ({ typeUrl: d.type_url, value: Buffer.from(d.value, "base64") })),
          headers,
          trailers,
        }),
      );
    });
  });
}

function info(): object {
  const own = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
  const grpc = JSON.parse(readFileSync(new URL("../../node_modules/@grpc/grpc-js/package.json", import.meta.url), "utf8"));
  return {
    language: "typescript",
    helper: `${own.name} ${own.version}`,
    grpc: `grpc-js ${grpc.version}`,
    features: ["link", "serve", "recode"],
  };
}

function recode(op: Op): object {
  const types = { LinkRequest: wire.LinkRequest, LinkResponse: wire.LinkResponse, Frame: wire.Frame };
  const type = types[op.message as keyof typeof types] as typeof wire.Frame;
  if (!type) throw new Error(`unknown message ${op.message}`);
  return { data: Buffer.from(type.encode(type.decode(Buffer.from(op.data, "base64"))).finish()).toString("base64") };
}

async function run(op: Op): Promise<object> {
  const link = () => links.get(op.link) ?? fail(`no link ${op.link}`);
  const serve = () => serves.get(op.serve) ?? fail(`no serve ${op.serve}`);
  switch (op.op) {
    case "info":
      return info();
    case "link":
      links.set(op.link, new Link(op.address, optionsOf(op)));
      return {};
    case "call": {
      const abort = new AbortController();
      calls.set(op.id, abort);
      try {
        return replied(await link().call(op.target, op.method ?? "", payloadOf(op), { ...sendOptions(op), signal: abort.signal }));
      } finally {
        calls.delete(op.id);
      }
    }
    case "push":
      await link().push(op.target, op.method ?? "", payloadOf(op), sendOptions(op));
      return {};
    case "query":
      return { handle: hex(await link().query(op.name, sendOptions(op))) };
    case "cancel":
      calls.get(op.call)?.abort();
      return {};
    case "serve":
      serves.set(op.serve, new Serve(op.address, optionsOf(op)));
      return {};
    case "register":
      return { handle: hex(await serve().register(op.name, (r) => handle(op.serve, r), { shared: op.shared ?? false })) };
    case "unregister":
      await serve().unregister(op.name);
      return {};
    case "answer":
      requests.get(op.request)?.(op);
      return {};
    case "close":
      await (op.serve === undefined ? link() : serve()).close(op.timeout_ms ? { timeoutMs: op.timeout_ms } : {});
      return {};
    case "recode":
      return recode(op);
    default:
      return fail(`unknown op ${op.op}`);
  }
}

function fail(text: string): never {
  throw new Error(text);
}

const lines = createInterface({ input: process.stdin, crlfDelay: Infinity });
lines.on("line", (line) => {
  const op = JSON.parse(line) as Op;
  run(op).then(
    (answer) => say({ id: op.id, ok: true, ...answer }),
    (err: unknown) => say({ id: op.id, ok: false, error: failed(err) }),
  );
});
lines.on("close", () => process.exit(0));
