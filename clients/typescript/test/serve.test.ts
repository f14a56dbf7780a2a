import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import { Metadata, status } from "@grpc/grpc-js";

import { Reason } from "../src/gen/mesh/v1/cluster.js";
import { type Handler, MeshError, type RegisterOptions, Serve, type ServeOptions, StatusError } from "../src/index.js";
import { Puppet, request, type Stream } from "./puppet.js";

async function serving(t: TestContext, handler: Handler, options: ServeOptions = {}, name: RegisterOptions = {}): Promise<{ puppet: Puppet; serve: Serve; stream: Stream }> {
  const puppet = await Puppet.start();
  const serve = new Serve(puppet.address, options);
  t.after(async () => {
    await serve.close({ timeoutMs: 0 });
    puppet.stop();
  });
  const registered = serve.register("model", handler, name);
  const stream = await puppet.accept();
  await answerRegister(stream, 0x70000001n);
  assert.equal(await registered, 0x70000001n);
  return { puppet, serve, stream };
}

async function answerRegister(stream: Stream, handle: bigint): Promise<void> {
  const { session, value } = await stream.take("register");
  assert.equal(value.name, "@model");
  stream.say(session, { $case: "registered", value: { handle } });
}

const call = (method: string, payload = "", more = {}) =>
  request({ address: { $case: "name", value: "@model" }, method, payload: Buffer.from(payload), ...more });

test("whatever a handler returns or throws reaches the caller", async (t) => {
  const errors: Error[] = [];
  const trailers = new Metadata();
  trailers.set("t", "x");
  const { stream } = await serving(
    t,
    (r) => {
      switch (r.method) {
        case "TEXT":
          return "text";
        case "BYTES":
          return new Uint8Array([1, 2]);
        case "NOTHING":
          return undefined;
        case "TRAILERS":
          return { payload: "p", trailers };
        case "STATUS":
          throw new StatusError(status.NOT_FOUND, "no such thing", { details: [{ typeUrl: "a/b", value: Buffer.from("d") }], trailers });
        case "NESTED":
          throw new MeshError("not sent", { message: "down", code: status.UNAVAILABLE, reason: "CONNECT_FAILED" });
        case "NUMBER":
          return 7 as never;
        default:
          throw new Error("secret");
      }
    },
    { onError: (e) => errors.push(e) },
  );
  const ask = async (session: number, method: string) => {
    stream.say(session, call(method));
    const frame = await stream.next();
    assert.equal(frame.session, BigInt(session));
    return frame.body!;
  };
  const payload = async (session: number, method: string) => {
    const body = await ask(session, method);
    assert.equal(body.$case, "reply");
    return body.$case === "reply" ? body.value : assert.fail();
  };
  const failure = async (session: number, method: string) => {
    const body = await ask(session, method);
    return body.$case === "failure" ? body.value : assert.fail(body.$case);
  };
  assert.equal((await payload(1, "TEXT")).payload.toString(), "text");
  assert.deepEqual([...(await payload(2, "BYTES")).payload], [1, 2]);
  assert.equal((await payload(3, "NOTHING")).payload.length, 0);
  assert.equal((await payload(4, "TRAILERS")).trailers[0]?.key, "t");
  const thrown = await failure(5, "STATUS");
  assert.deepEqual([thrown.reason, thrown.code, thrown.message, thrown.details.length, thrown.trailers.length], [Reason.HANDLER, 5, "no such thing", 1, 1]);
  const nested = await failure(6, "NESTED");
  assert.deepEqual([nested.reason, nested.code], [Reason.HANDLER, status.UNKNOWN]);
  for (const method of ["NUMBER", "PANIC"]) {
    const panic = await failure(method === "PANIC" ? 8 : 7, method);
    assert.deepEqual([panic.reason, panic.code], [Reason.PANIC, status.INTERNAL]);
    assert.doesNotMatch(panic.message, /secret/);
    const id = /as ([0-9a-f]+)$/.exec(panic.message)?.[1];
    assert.ok(id && errors.at(-1)?.message.includes(id));
  }
  assert.match(errors.at(-1)!.message, /secret/);
});

test("concurrency 1 runs one after the other, in order", async (t) => {
  let running = 0;
  const order: string[] = [];
  const { stream } = await serving(
    t,
    async (r) => {
      assert.equal(++running, 1);
      await new Promise((resolve) => setImmediate(resolve));
      order.push(r.payload.toString());
      running--;
    },
    {},
    { concurrency: 1 },
  );
  for (let i = 1; i <= 20; i++) stream.say(i, call("N", String(i), { push: i % 3 === 0 }));
  for (let i = 0; i < 14; i++) await stream.take("reply");
  assert.deepEqual(order.slice(0, 20), Array.from({ length: order.length }, (_, i) => String(i + 1)));
});

test("pushes beyond the bound stop the reading, and calls pass again later", async (t) => {
  const release: (() => void)[] = [];
  let ran = 0;
  const { stream } = await serving(
    t,
    (r) => {
      ran++;
      return r.push ? new Promise<string>((resolve) => release.push(() => resolve(""))) : "answer";
    },
    { maxPushes: 3, heartbeatIntervalMs: 200 },
  );
  for (let i = 1; i <= 10; i++) stream.say(i, call("P", "", { push: true }));
  stream.say(11, call("C"));
  const stopped = async (want: boolean) => {
    for (;;) {
      const beat = stream.frames.findLast((f) => f.body?.$case === "heartbeat");
      if (beat?.body?.$case === "heartbeat" && beat.body.value.readingStopped === want) return;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  await stopped(true);
  assert.ok(ran <= 3, `${ran} ran`);
  while (ran < 11) {
    for (const go of release.splice(0)) go();
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  assert.equal((await stream.take("reply")).value.payload.toString(), "answer");
  for (const go of release.splice(0)) go();
});

test("a name that the node refuses is rejected", async (t) => {
  const puppet = await Puppet.start();
  const serve = new Serve(puppet.address);
  t.after(async () => {
    await serve.close();
    puppet.stop();
  });
  const registered = serve.register("@model", () => "");
  await assert.rejects(serve.register("@model", () => ""), /registered here already/);
  await assert.rejects(serve.register("@a\nb", () => ""), /control characters/);
  const stream = await puppet.accept();
  const { session } = await stream.take("register");
  stream.say(session, { $case: "failure", value: { reason: Reason.NAME_TAKEN, code: status.ALREADY_EXISTS, message: "taken", details: [], headers: [], trailers: [] } });
  await assert.rejects(registered, { verdict: "rejected", reason: "NAME_TAKEN", code: status.ALREADY_EXISTS, target: "@model" });
  void serve.close();
  await stream.take("goaway");
  await stream.over();
  stream.finish();
});

test("a Serve that cannot reach its node says so", async () => {
  const serve = new Serve("127.0.0.1:1", { backoffMinMs: 10 });
  await assert.rejects(serve.register("@model", () => ""), { verdict: "not sent", reason: "CONNECT_FAILED" });
  await assert.rejects(serve.register("@model", () => "", { waitUp: true, timeoutMs: 50 }), { verdict: "not sent", reason: "DEADLINE_EXCEEDED" });
  await serve.close();
  await assert.rejects(serve.register("@model", () => ""), { reason: "CLOSED" });
});

test("after a break the names are registered again, and the handler's signal was aborted", async (t) => {
  let aborted: unknown;
  const { puppet, stream } = await serving(
    t,
    (r) =>
      new Promise((_, reject) => {
        r.signal.addEventListener("abort", () => {
          aborted = r.signal.reason;
          reject(r.signal.reason);
        });
      }),
    { backoffMinMs: 10 },
  );
  stream.say(1, call("WAIT"));
  await new Promise((resolve) => setImmediate(resolve));
  stream.fail(status.UNAVAILABLE, "the node is leaving");
  const next = await puppet.accept();
  await answerRegister(next, 2n);
  assert.match(String(aborted), /the node is leaving/);
});

test("close says goaway, answers, half-closes, and waits for the end", async (t) => {
  let finish = () => undefined as void;
  const { serve, stream } = await serving(t, () => new Promise<string>((resolve) => (finish = () => resolve("late"))));
  stream.say(4, call("WAIT"));
  while (finish() !== undefined || stream.frames.length > 0) await new Promise((resolve) => setImmediate(resolve));
  await new Promise((resolve) => setTimeout(resolve, 20));
  const closed = serve.close();
  assert.equal((await stream.take("goaway")).value.lastSession, 4n);
  stream.say(5, call("NOT TAKEN"));
  finish();
  assert.equal((await stream.take("reply")).value.payload.toString(), "late");
  await stream.over();
  assert.equal(stream.frames.length, 0);
  stream.finish();
  await closed;
});
