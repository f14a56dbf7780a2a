import { isIP } from "node:net";

import { type ChannelCredentials, type ChannelOptions, Client, type ClientDuplexStream, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import { BinaryWriter } from "@bufbuild/protobuf/wire";

import { textOf } from "./errors.js";
import { ClusterServiceService, Frame, type Hello } from "./gen/mesh/v1/cluster.js";
import { type Peer, readHello } from "./hello.js";

/** The most frames that a gRPC message may have. */
const maxBatchFrames = 4096;

/** How long one message may take to leave before the peer is a slow consumer, in ms. */
const sendTimeoutMs = 30_000;

type Body = NonNullable<Frame["body"]>;

/** One gRPC message on its way out: frames up to what the receiver takes. */
export class Batch {
  size = 0;
  private count = 0;
  private readonly writer = new BinaryWriter();

  constructor(private readonly limit: number) {}

  get empty(): boolean {
    return this.count === 0;
  }

  /** Says whether a frame of at most n bytes has room. */
  fits(n: number): boolean {
    return this.count < maxBatchFrames && this.size + n + 8 <= this.limit;
  }

  add(session: number | bigint, body: Body): void {
    const bytes = Frame.encode({ session: BigInt(session), body }).finish();
    this.writer.uint32(10).bytes(bytes); // field 1, length-delimited, of each of the four messages
    this.size += bytes.length + 5;
    this.count++;
  }

  finish(): Buffer {
    return Buffer.from(this.writer.finish());
  }
}

/** What a wire carries for: one life of a Link or of a Serve. */
export interface Role {
  /** The peer has accepted. */
  opened(peer: Peer): void;
  /** A frame arrived. What it throws ends the wire. */
  frame(frame: Frame): void;
  /** Adds what may be sent now; true: nothing more will come, half-close. */
  fill(batch: Batch): boolean;
  /** It is over, once. No cause: it ended in good order. */
  ended(cause: Error | undefined): void;
}

/** How and where to open a wire. */
export interface Dial {
  kind: "link" | "serve";
  address: string;
  hello: Hello;
  connectTimeoutMs: number;
  maxBatchBytes: number;
  credentials: ChannelCredentials;
  token: () => string;
  channelOptions: ChannelOptions;
}

/** Where a node listens, and how to speak to it. */
export interface DialOptions {
  /** How to speak: plaintext unless given, and that on loopback and unix sockets only. */
  credentials?: ChannelCredentials;
  /** Allows plaintext to other machines too. Default false. */
  insecure?: boolean;
  /** The token that the team shares, where the node asks for one; a function is asked for each new stream. */
  token?: string | (() => string);
  /** More options for the gRPC channel. They win over the helper's own. */
  channelOptions?: ChannelOptions;
}

/** Checks an address, and that nothing leaves the machine in clear unasked. */
export function dialOf(address: string, options: DialOptions): Pick<Dial, "address" | "credentials" | "token" | "channelOptions"> {
  const parts = /^(?:\[([^\]]+)\]|([^:/[\]]+)):(\d{1,5})$/.exec(address);
  const host = parts?.[1] ?? parts?.[2] ?? "";
  if (!(address.startsWith("unix:") && address.length > 5) && (!parts || Number(parts[3]) > 65535 || (parts[1] !== undefined && isIP(host) !== 6))) {
    throw new TypeError(`address ${JSON.stringify(address)}: write host:port, [IPv6]:port or unix:/path`);
  }
  const local = !parts || host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
  if (!local && !options.credentials && !options.insecure) {
    throw new TypeError(`address ${address}: plaintext is spoken on loopback and unix sockets only; give credentials, or insecure: true to allow it`);
  }
  if (typeof options.token === "string" && !/^[\x21-\x7e]+$/.test(options.token)) {
    throw new TypeError("the token has characters that are not visible ASCII: is there a line break at its end?");
  }
  return {
    address,
    credentials: options.credentials ?? credentials.createInsecure(),
    token: typeof options.token === "function" ? options.token : () => (options.token as string | undefined) ?? "",
    channelOptions: options.channelOptions ?? {},
  };
}

/**
 * One gRPC stream: a writer that turns what is ready into one message, and a
 * pulse that finds a dead peer. It ends once; the first cause wins.
 */
export class Wire {
  /**
   * Opens a wire. Where that fails at once (a token function that throws,
   * channel options that are none) the role is told, as of any other failure.
   */
  static open(dial: Dial, role: Role, opening: (wire: Wire) => void): void {
    try {
      opening(new Wire(dial, role));
    } catch (err) {
      queueMicrotask(() => role.ended(err instanceof Error ? err : new Error(textOf(err))));
    }
  }

  /** The other end, once it has accepted. */
  peer: Peer | undefined;

  private readonly client: Client;
  private readonly call: ClientDuplexStream<Batch, { frames: Frame[] }>;
  private readonly intervalMs: number;
  private timer: NodeJS.Timeout;
  private expected = 0; // when the timer should fire
  private over = false;
  private failure: Error | undefined; // what gRPC said at the end
  private halfClosed = false;
  private scheduled = false;
  private writing = 0; // since when, 0: not
  private sent = 0;
  private received = 0;
  private beat = false;
  private stopped = false;
  private peerStopped = false;

  private constructor(
    dial: Dial,
    private readonly role: Role,
  ) {
    this.intervalMs = dial.hello.heartbeatIntervalMs;
    const metadata = new Metadata();
    const token = dial.token();
    if (token) metadata.set("authorization", `Bearer ${token}`);
    // A connection of its own, which gRPC neither shares nor opens again by itself.
    this.client = new Client(dial.address, dial.credentials, {
      "grpc.use_local_subchannel_pool": 1,
      "grpc.enable_retries": 0,
      "grpc.per_rpc_retry_buffer_size": 64 << 10, // beyond it a write waits for HTTP/2
      "grpc.enable_http_proxy": 0,
      "grpc.service_config_disable_resolution": 1,
      "grpc.keepalive_time_ms": 10_000,
      "grpc.keepalive_timeout_ms": 5000,
      "grpc.keepalive_permit_without_calls": 1,
      "grpc.max_receive_message_length": dial.maxBatchBytes + (4 << 10),
      "grpc.max_send_message_length": -1,
      "grpc-node.flow_control_window": 1 << 20,
      ...dial.channelOptions,
    });
    const method = dial.kind === "link" ? ClusterServiceService.link : ClusterServiceService.serve;
    this.call = this.client.makeBidiStreamRequest(method.path, (batch: Batch) => batch.finish(), method.responseDeserialize, metadata);
    this.call.on("data", (message: { frames: Frame[] }) => this.take(message.frames));
    this.call.on("error", (err: ServiceError) => this.failed(err));
    this.call.on("end", () => this.finish(this.failure ?? (this.peer ? undefined : new Error("the node ended the link before its hello"))));
    this.timer = setTimeout(() => this.finish(new Error(`no answer within ${dial.connectTimeoutMs} ms`)), dial.connectTimeoutMs);
    const hello = new Batch(64 << 10);
    hello.add(0, { $case: "hello", value: dial.hello });
    this.call.write(hello);
  }

  /** Says that there is something to send; what comes meanwhile goes with it. */
  wake(): void {
    if (this.scheduled || this.over) return;
    this.scheduled = true;
    queueMicrotask(() => {
      this.scheduled = false;
      this.flush();
    });
  }

  /** Stops reading until resume; the peer is told. */
  stop(): void {
    if (this.stopped) return;
    this.stopped = this.beat = true;
    this.call.pause();
    this.wake();
  }

  /** Reads again. */
  resume(): void {
    if (!this.stopped) return;
    this.stopped = false;
    this.beat = true;
    this.received = performance.now();
    this.call.resume();
    this.wake();
  }

  /** Ends the wire at once. */
  end(cause: Error): void {
    this.finish(cause);
  }

  private flush(): void {
    if (this.over || this.halfClosed || this.writing || !this.peer) return;
    const batch = new Batch(this.peer.limits.batch);
    if (this.beat) {
      this.beat = false;
      batch.add(0, { $case: "heartbeat", value: { readingStopped: this.stopped } });
    }
    const done = this.role.fill(batch);
    if (!batch.empty) {
      this.writing = performance.now() || 1;
      this.call.write(batch, () => {
        this.writing = 0;
        this.sent = performance.now();
        this.flush();
      });
    } else if (done) {
      this.halfClosed = true;
      this.call.end();
    }
  }

  private take(frames: Frame[]): void {
    this.received = performance.now();
    try {
      for (const frame of frames) {
        if (this.over) return;
        this.one(frame);
      }
    } catch (err) {
      this.finish(err instanceof Error ? err : new Error(textOf(err)));
    }
  }

  private one(frame: Frame): void {
    const body = frame.body;
    if (!this.peer) {
      if (body?.$case !== "hello") throw new Error("protocol error: the first frame is not a hello");
      this.accepted(body.value);
    } else if (body?.$case === "hello") {
      throw new Error("protocol error: a second hello");
    } else if (body?.$case === "heartbeat") {
      // A write that waited while the peer did not read has its time anew.
      if (this.peerStopped && !body.value.readingStopped && this.writing) this.writing = performance.now();
      this.peerStopped = body.value.readingStopped;
    } else {
      this.role.frame(frame);
    }
  }

  private accepted(hello: Hello): void {
    try {
      this.peer = readHello(hello);
    } catch (err) {
      throw new Error(`protocol error: ${textOf(err)}`);
    }
    clearTimeout(this.timer);
    this.sent = performance.now();
    this.schedule(this.sent + this.intervalMs);
    this.role.opened(this.peer);
    this.wake();
  }

  private schedule(due: number): void {
    this.expected = due;
    this.timer = setTimeout(() => this.tick(), Math.max(1, Math.ceil(due - performance.now())));
  }

  /** The wire's only timer: a heartbeat where one is due, the end where the peer is silent. */
  private tick(): void {
    const now = performance.now();
    // A late tick says that this process was busy: what arrived is read first.
    if (now - this.expected > 500) return this.schedule(now + 50);
    if (this.writing && !this.peerStopped && now - this.writing >= sendTimeoutMs) {
      return this.finish(new Error("slow consumer: a message could not be sent for 30 s and the peer did not say that it stopped reading"));
    }
    let due = now + this.intervalMs;
    if (!this.stopped) {
      const quiet = this.received + this.peer!.silenceMs;
      if (now >= quiet) return this.finish(new Error("nothing arrived for too long: the peer is dead or cut off"));
      due = Math.min(due, quiet);
    }
    if (now >= this.sent + this.intervalMs) {
      this.beat = true;
      this.flush();
    } else {
      due = Math.min(due, this.sent + this.intervalMs);
    }
    if (!this.over) this.schedule(due);
  }

  /** gRPC ended the stream with a status. What arrived before it is read first. */
  private failed(err: ServiceError): void {
    this.failure = new Error(err.details || err.message, { cause: err });
    if (this.stopped) this.finish(this.failure);
    else setImmediate(() => this.finish(this.failure));
  }

  private finish(cause: Error | undefined): void {
    if (this.over) return;
    this.over = true;
    clearTimeout(this.timer);
    if (cause) this.call.cancel();
    this.call.resume(); // or it would never end
    this.client.close();
    this.role.ended(cause);
  }
}
