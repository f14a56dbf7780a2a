import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { Metadata, status } from "@grpc/grpc-js";

import { Reason } from "../src/gen/mesh/v1/cluster.js";
import { Link, type LinkOptions, MeshError } from "../src/index.js";
import { Puppet, type Stream } from "./puppet.js";

async function linked(t: TestContext, options: LinkOptions = {}, hello = {}): Promise<{ puppet: Puppet; link: Link; stream: Stream }> {
  const puppet = await Puppet.start(hello);
  const link = new Link(puppet.address, options);
  t.after(async () => {
    await link.close({ timeoutMs: 0 });
    puppet.stop();
  });
  await link.connect();
  return { puppet, link, stream: await puppet.accept() };
}

const facts = (err: unknown) => {
  assert.ok(err instanceof MeshError, String(err));
  return { verdict: err.verdict, reason: err.reason, code: err.code };
};

async function fails(promise: Promise<unknown>): Promise<MeshError> {
  const err = await promise.then(
    () => assert.fail("it did not fail"),
    (e: unknown) => e,
  );
  assert.ok(err instanceof MeshError, String(err));
  return err;
}

test("a call has the handler's reply", async (t) => {
  const { link, stream } = await linked(t, { node: "db", process: "tester" });
  assert.equal(stream.hello.process, "tester");
  assert.equal(stream.hello.node, "db");
  const headers = new Metadata();
  headers.add("k", "1");
  headers.add("k", "2");
  headers.add("raw-bin", Buffer.from([0, 255]));
  const call = link.call("@sdb", "GET", "key", { headers, traceTag: "tag", timeoutMs: 1000 });
  const { session, value } = await stream.take("request");
  assert.deepEqual(value.address, { $case: "name", value: "@sdb" });
  assert.deepEqual(
    value.headers.map((h) => [h.key, h.value.toString("hex")]),
    [["k", "31"], ["k", "32"], ["raw-bin", "00ff"]],
  );
  assert.equal(value.traceTag, "tag");
  assert.ok(value.timeLeftUs > 500_000n && value.timeLeftUs <= 1_000_000n);
  stream.say(session, {
    $case: "reply",
    value: { payload: Buffer.from("value"), totalSize: 0n, headers: [{ key: "h", value: Buffer.from("x") }], trailers: [{ key: "t-bin", value: Buffer.from([1]) }] },
  });
  const reply = await call;
  assert.equal(reply.payload.toString(), "value");
  assert.deepEqual(reply.headers.get("h"), ["x"]);
  assert.deepEqual(reply.trailers.get("t-bin"), [Buffer.from([1])]);
});

test("each failure has its verdict, code and reason", async (t) => {
  const { link, stream } = await linked(t);
  const cases: [Reason, number, string, string, number][] = [
    [Reason.HANDLER, 5, "handler failed", "", 5],
    [Reason.UNSPECIFIED, 0, "handler failed", "", 2],
    [Reason.HANDLER, 99, "handler failed", "", 2],
    [Reason.PANIC, 13, "handler failed", "PANIC", 13],
    [Reason.UNKNOWN_METHOD, 12, "rejected", "UNKNOWN_METHOD", 12],
    [Reason.NAME_NOT_FOUND, 5, "rejected", "NAME_NOT_FOUND", 5],
    [Reason.STALE_HANDLE, 9, "rejected", "STALE_HANDLE", 9],
    [Reason.OVERLOADED, 8, "rejected", "OVERLOADED", 8],
    [Reason.DRAINING, 14, "rejected", "DRAINING", 14],
    [Reason.REPLY_TOO_LARGE, 11, "handler failed", "REPLY_TOO_LARGE", 11],
    [Reason.EXPIRED, 4, "rejected", "EXPIRED", 4],
    [Reason.CANCELLED, 1, "maybe executed", "CANCELLED", 1],
    [Reason.NOT_PERMITTED, 7, "rejected", "NOT_PERMITTED", 7],
    [Reason.LOOP, 9, "rejected", "LOOP", 9],
  ];
  for (const [reason, sent, verdict, name, code] of cases) {
    const call = fails(link.call("@sdb", "GET"));
    const { session } = await stream.take("request");
    stream.say(session, { $case: "failure", value: { reason, code: sent, message: "why", details: [], headers: [], trailers: [] } });
    const err = await call;
    assert.deepEqual({ ...facts(err), message: err.message }, { verdict, reason: name, code, message: "why" });
    assert.equal(err.target, "@sdb");
    assert.equal(err.method, "GET");
  }
});

test("bad input is refused with what to do about it", async (t) => {
  for (const address of ["", "db", "127.0.0.1", "127.0.0.1:70000", "http://127.0.0.1:1", "[1.2.3.4]:1", ":1", "unix:"]) {
    assert.throws(() => new Link(address), /write host:port/, address);
  }
  assert.throws(() => new Link("192.0.2.1:1"), /plaintext.*insecure: true/);
  new Link("192.0.2.1:1", { insecure: true });
  assert.throws(() => new Link("127.0.0.1:1", { maxBatchBytes: 1 }), RangeError);
  assert.throws(() => new Link("127.0.0.1:1", { heartbeatIntervalMs: 0.5 }), RangeError);
  assert.throws(() => new Link("127.0.0.1:1", { process: "a b" }), /1 to 255 letters/);
  assert.throws(() => new Link("127.0.0.1:1", { node: "__x" }), /node name/);

  const { link, stream } = await linked(t);
  const big = new Metadata();
  big.set("k", "x".repeat(9000));
  const cases: [Promise<unknown>, string, RegExp][] = [
    [link.call("sdb", "GET"), "INVALID_TARGET", /"@name"/],
    [link.call("db@sdb", "GET"), "INVALID_TARGET", /leave out the node/],
    [link.call("@", "GET"), "INVALID_TARGET", /@name/],
    [link.call(":12", "GET"), "INVALID_TARGET", /16 hex digits/],
    [link.call(-1n, "GET"), "INVALID_TARGET", /64 bits/],
    [link.call("@a\nb", "GET"), "INVALID_NAME", /control characters/],
    [link.call(`@${"x".repeat(255)}`, "GET"), "INVALID_NAME", /255 bytes/],
    [link.call("@\ud800", "GET"), "INVALID_NAME", /UTF-8/],
    [link.push("@sdb", "x".repeat(1025)), "INVALID_REQUEST", /1024/],
    [link.call("@sdb", "GET", "", { headers: big }), "INVALID_REQUEST", /8192/],
  ];
  for (const [promise, reason, text] of cases) {
    const err = await fails(promise);
    assert.equal(err.verdict, "not sent");
    assert.equal(err.reason, reason);
    assert.match(err.message, text);
  }
  await assert.rejects(link.call("@sdb", "GET", "", { timeoutMs: -1 }), RangeError);
  assert.equal(stream.frames.length, 0);
});

test("an AbortSignal gives a call up", async (t) => {
  const { link, stream } = await linked(t);
  const before = await fails(link.call("@sdb", "GET", "", { signal: AbortSignal.abort() }));
  assert.deepEqual(facts(before), { verdict: "not sent", reason: "CANCELLED", code: status.CANCELLED });
  const abort = new AbortController();
  const call = fails(link.call("@sdb", "GET", "", { signal: abort.signal }));
  const { session } = await stream.take("request");
  abort.abort();
  assert.deepEqual(facts(await call), { verdict: "maybe executed", reason: "CANCELLED", code: status.CANCELLED });
  assert.equal((await stream.take("cancel")).session, session);
  const timed = await fails(link.call("@sdb", "GET", "", { signal: AbortSignal.timeout(20) }));
  assert.equal(timed.reason, "DEADLINE_EXCEEDED");
});

test("the line is bounded: calls fail at once, pushes after a while", async (t) => {
  const { puppet, link: open } = await linked(t);
  assert.ok(open.peer);
  // Nobody answers the hello of the second link while the puppet is down.
  puppet.stop();
  const link = new Link(puppet.address, { lineCalls: 1, linePushBytes: 1, sendWaitMs: 30, backoffMinMs: 5000 });
  t.after(() => link.close());
  const waiting = fails(link.call("@sdb", "GET", "", { waitUp: true, timeoutMs: 300 }));
  const full = await fails(link.call("@sdb", "GET", "", { waitUp: true }));
  assert.deepEqual(facts(full), { verdict: "not sent", reason: "OVERLOADED", code: status.RESOURCE_EXHAUSTED });
  const first = fails(link.push("@sdb", "PING", "", { waitUp: true, timeoutMs: 300 }));
  const second = await fails(link.push("@sdb", "PING", "", { waitUp: true }));
  assert.equal(second.reason, "OVERLOADED");
  assert.equal((await waiting).reason, "DEADLINE_EXCEEDED");
  assert.match((await first).message, /the last try: connect/);
});

test("without waitUp a call fails with why the node cannot be reached", async () => {
  const link = new Link("127.0.0.1:1", { node: "db" });
  const err = await fails(link.call("@sdb", "GET"));
  assert.deepEqual(facts(err), { verdict: "not sent", reason: "CONNECT_FAILED", code: status.UNAVAILABLE });
  assert.match(err.message, /^connect \[db\] \(127\.0\.0\.1:1\): .*ECONNREFUSED/);
  const noWait = await fails(link.call("@sdb", "GET", "", { noWait: true }));
  assert.equal(noWait.reason, "CONNECT_FAILED");
  await link.close();
});

test("a token is shown, and one that cannot be had fails the link", async (t) => {
  assert.throws(() => new Link("127.0.0.1:1", { token: "secret\n" }), /visible ASCII/);
  const { puppet, stream } = await linked(t, { token: "sixteen-visible-ones" });
  assert.equal(stream.authorization, "Bearer sixteen-visible-ones");
  const link = new Link(puppet.address, {
    token: () => {
      throw new Error("no token file");
    },
  });
  const err = await fails(link.call("@sdb", "GET"));
  assert.deepEqual(facts(err), { verdict: "not sent", reason: "CONNECT_FAILED", code: status.UNAVAILABLE });
  assert.match(err.message, /no token file/);
  await link.close();
});

test("what a goaway did not take is sent again, pushes among it are counted", async (t) => {
  const states: string[] = [];
  const { puppet, link, stream } = await linked(t, { onState: (s) => states.push(s.state) });
  const one = link.call("@sdb", "ONE");
  const two = link.call("@sdb", "TWO");
  await link.push("@sdb", "LOST");
  for (let i = 0; i < 3; i++) await stream.take("request");
  stream.say(0, { $case: "goaway", value: { lastSession: 1n, message: "moving" } });
  const next = await puppet.accept();
  const again = await next.take("request");
  assert.equal(again.value.method, "TWO");
  next.reply(again.session, "second");
  stream.reply(1, "first");
  assert.equal((await one).payload.toString(), "first");
  assert.equal((await two).payload.toString(), "second");
  await stream.over(); // half-closed when the last answer came
  stream.finish();
  assert.equal(link.stats.pushesLost, 1);
  assert.deepEqual(states, ["connecting", "up", "leaving", "connecting", "up"]);
});

test("a peer that says garbage ends the link, and nothing else", async (t) => {
  const { puppet, link, stream } = await linked(t);
  const call = fails(link.call("@sdb", "GET"));
  await stream.take("request");
  stream.say(0, { $case: "hello", value: { ...stream.hello, version: 1 } });
  const err = await call;
  assert.deepEqual(facts(err), { verdict: "maybe executed", reason: "LINK_BROKEN", code: status.ABORTED });
  assert.match(err.message, /a second hello/);
  const again = link.call("@sdb", "GET", "", { waitUp: true });
  const next = await puppet.accept();
  next.reply((await next.take("request")).session);
  await again;
});

test("query, ping and invoke speak the process and the stubs", async (t) => {
  const { link, stream } = await linked(t);
  const query = link.query("@sdb");
  const asked = await stream.take("request");
  assert.deepEqual(asked.value.address, { $case: "handle", value: 0n });
  stream.reply(asked.session, Buffer.from([8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]));
  assert.equal(await query, 2n ** 64n - 1n);
  const method = {
    path: "/a.B/C",
    requestStream: false as const,
    responseStream: false as const,
    requestSerialize: (n: number) => Buffer.from([n]),
    requestDeserialize: (b: Buffer) => b[0]!,
    responseSerialize: (n: number) => Buffer.from([n]),
    responseDeserialize: (b: Buffer) => b[0]!,
  };
  const invoked = link.invoke("@sdb", method, 7);
  const r = await stream.take("request");
  assert.equal(r.value.method, "/a.B/C");
  stream.reply(r.session, Buffer.from([r.value.payload[0]! + 1]));
  assert.equal(await invoked, 8);
});

test("the process exits by itself after close", async (t) => {
  const puppet = await Puppet.start();
  t.after(() => puppet.stop());
  const stream = puppet.accept().then(async (s) => {
    s.reply((await s.take("request")).session, "done");
    await s.over();
    s.finish();
  });
  const index = fileURLToPath(new URL("../src/index.js", import.meta.url));
  const program = `
    import { Link } from ${JSON.stringify(index)};
    const link = new Link(${JSON.stringify(puppet.address)});
    const reply = await link.call("@sdb", "GET", "", { timeoutMs: 60_000 });
    await link.close();
    await link.close();
    console.log(reply.payload.toString());`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", program], { timeout: 10_000 });
  assert.equal(stdout, "done\n");
  await stream;
});
