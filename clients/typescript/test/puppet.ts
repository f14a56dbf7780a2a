// A node whose frames are written by hand, for the helper's tests.

import { once } from "node:events";

import { Server, ServerCredentials, type ServerDuplexStream, type ServiceError, status } from "@grpc/grpc-js";

import { ClusterServiceService, Frame, Hello, Request } from "../src/gen/mesh/v1/cluster.js";

type Body = NonNullable<Frame["body"]>;

/** One stream to the puppet: a queue of the frames that came, and a way back. */
export class Stream {
  readonly frames: Frame[] = [];
  ended = false;
  private waiting: (() => void) | undefined;

  constructor(
    private readonly call: ServerDuplexStream<{ frames: Frame[] }, { frames: Frame[] }>,
    readonly hello: Hello,
  ) {}

  /** What was shown as authorization. */
  get authorization(): string {
    return String(this.call.metadata.get("authorization")[0] ?? "");
  }

  push(frames: Frame[]): void {
    this.frames.push(...frames);
    this.waiting?.();
  }

  end(): void {
    this.ended = true;
    this.waiting?.();
  }

  say(session: bigint | number, body: Body): void {
    this.call.write({ frames: [{ session: BigInt(session), body }] });
  }

  reply(session: bigint | number, payload: string | Buffer = ""): void {
    this.say(session, { $case: "reply", value: { payload: Buffer.from(payload as Buffer), totalSize: 0n, headers: [], trailers: [] } });
  }

  /** The next frame that is no heartbeat. */
  async next(): Promise<Frame> {
    for (;;) {
      const frame = this.frames.shift();
      if (frame && frame.body?.$case !== "heartbeat") return frame;
      if (frame) continue;
      if (this.ended) throw new Error("the stream ended");
      await new Promise<void>((resolve) => (this.waiting = resolve));
    }
  }

  /** The next frame, which has this body. */
  async take<K extends Body["$case"]>(kind: K): Promise<{ session: bigint; value: Extract<Body, { $case: K }>["value"] }> {
    const frame = await this.next();
    if (frame.body?.$case !== kind) throw new Error(`${frame.body?.$case} came, not ${kind}`);
    return { session: frame.session, value: frame.body.value as never };
  }

  /** Waits for the program's half-close. */
  async over(): Promise<void> {
    while (!this.ended) await new Promise<void>((resolve) => (this.waiting = resolve));
  }

  /** Ends the stream in good order. */
  finish(): void {
    this.call.end();
  }

  /** Ends the stream with a status. */
  fail(code: status, details: string): void {
    this.call.emit("error", { code, details } as ServiceError);
  }
}

/** A listener that accepts every link. */
export class Puppet {
  address = "";
  readonly streams: Stream[] = [];
  /** What its hello says. */
  hello: Partial<Hello> = {};
  private readonly server = new Server();
  private waiting: (() => void) | undefined;
  private taken = 0;

  static async start(hello: Partial<Hello> = {}, port = 0): Promise<Puppet> {
    const puppet = new Puppet();
    puppet.hello = hello;
    const open = (call: ServerDuplexStream<{ frames: Frame[] }, { frames: Frame[] }>) => void puppet.serve(call);
    puppet.server.addService(ClusterServiceService, { link: open, serve: open, call: () => undefined });
    const bound = await new Promise<number>((resolve, reject) =>
      puppet.server.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (err, n) => (err ? reject(err) : resolve(n))),
    );
    puppet.address = `127.0.0.1:${bound}`;
    return puppet;
  }

  private async serve(call: ServerDuplexStream<{ frames: Frame[] }, { frames: Frame[] }>): Promise<void> {
    call.on("error", () => undefined);
    const [{ frames }] = (await once(call, "data")) as [{ frames: Frame[] }];
    if (frames[0]?.body?.$case !== "hello") throw new Error("the first frame is no hello");
    const stream = new Stream(call, frames[0].body.value);
    call.on("data", (message: { frames: Frame[] }) => stream.push(message.frames));
    call.on("end", () => stream.end());
    call.on("cancelled", () => stream.end());
    stream.say(0, { $case: "hello", value: Hello.create({ version: 1, process: "puppet", incarnation: 7, ...this.hello }) });
    this.streams.push(stream);
    this.waiting?.();
  }

  /** The next stream that was opened. */
  async accept(): Promise<Stream> {
    while (this.streams.length <= this.taken) await new Promise<void>((resolve) => (this.waiting = resolve));
    return this.streams[this.taken++]!;
  }

  stop(): void {
    this.server.forceShutdown();
  }
}

/** A request frame's body. */
export function request(parts: Partial<Request>): Body {
  return { $case: "request", value: Request.create(parts as never) as Request };
}
