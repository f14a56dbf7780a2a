import { status } from "@grpc/grpc-js";

import { type Condition, failed, MeshError, textOf, type Trouble, trouble } from "./errors.js";
import type { Failure, Frame, Header, Reply as ReplyFrame, Request } from "./gen/mesh/v1/cluster.js";
import { headerBytes, toMetadata } from "./headers.js";
import type { Reply } from "./api.js";
import { type Joiner, type Parcel, partBytes } from "./parts.js";
import type { Outlet } from "./outlet.js";

/** For whom a message is. */
export type Address = { $case: "name"; value: string } | { $case: "handle"; value: bigint };

/** The mistake in a target, for its error. */
export class BadTarget extends Error {
  constructor(
    readonly reason: Extract<Condition, "INVALID_TARGET" | "INVALID_NAME">,
    message: string,
  ) {
    super(message);
  }
}

/** Reads "@name", ".name", ":handle" or a handle. Throws BadTarget. */
export function addressOf(target: string | bigint): Address {
  if (typeof target === "bigint") {
    if (target < 0n || target >= 1n << 64n) throw new BadTarget("INVALID_TARGET", `invalid target: the handle ${target} has more than 64 bits`);
    return { $case: "handle", value: target };
  }
  if (/^:[0-9a-f]{16}$/i.test(target)) return { $case: "handle", value: BigInt(`0x${target.slice(1)}`) };
  if (!/^[@.][^]/.test(target)) {
    const hint = /^[^@.:]+[@.:]/.test(target) ? "; a link is to one node, so leave out the node's name" : "";
    throw new BadTarget("INVALID_TARGET", `invalid target ${JSON.stringify(target.slice(0, 80))}: write "@name", ".name" or ":" and the 16 hex digits of a handle${hint}`);
  }
  checkName(target);
  return { $case: "name", value: target };
}

/** Checks a name with its sign. Throws BadTarget. */
export function checkName(name: string): void {
  const bytes = Buffer.from(name);
  if (bytes.length > 255 || bytes.toString() !== name || /[\p{Cc}]/u.test(name)) {
    throw new BadTarget("INVALID_NAME", `invalid name ${JSON.stringify(name.slice(0, 80))}: a name has 1 to 255 bytes of UTF-8 without control characters`);
  }
}

/** What a message is made of. */
export interface MessageParts {
  target: string;
  address: Address;
  method: string;
  payload: Buffer;
  headers: Header[];
  traceTag: string;
  push: boolean;
  noWait: boolean;
  waitUp: boolean;
  /** When its time is over, on performance.now()'s clock; Infinity: never. */
  due: number;
}

/** One message on its way out. It has exactly one outcome. */
export class Message implements Parcel {
  readonly promise: Promise<Reply>;
  /** Runs once, when the outcome is known. */
  onSettled: () => void = () => undefined;
  /** Where it stands: before the line, in it, set aside on a link, sent, or over. */
  place: "room" | "line" | "aside" | "sent" | "done" = "done";
  order = 0;
  settled = false;
  gone = false; // its caller left after it was sent

  // Of the link on which it was sent.
  out: Outlet | undefined;
  session = 0n;
  offset = 0;
  join: Joiner | undefined;
  begun: ReplyFrame | undefined; // the first frame of a large reply

  private resolve!: (reply: Reply) => void;
  private reject!: (err: MeshError) => void;

  constructor(
    readonly parts: MessageParts,
    private readonly node: string,
  ) {
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }

  get payload(): Buffer {
    return this.parts.payload;
  }

  get push(): boolean {
    return this.parts.push;
  }

  get large(): boolean {
    return this.payload.length > partBytes;
  }

  /** To whom it goes: messages to one addressee keep their order. */
  get addressee(): string {
    return `${this.parts.address.$case}${this.parts.address.value}`;
  }

  /** At least the length of its first frame. */
  get bound(): number {
    const { address, method, traceTag, headers, payload } = this.parts;
    const name = address.$case === "name" ? Buffer.byteLength(address.value) : 8;
    return Math.min(payload.length, partBytes) + name + Buffer.byteLength(method) + Buffer.byteLength(traceTag) + headerBytes(headers) + 96;
  }

  /** What it counts against the bound of waiting pushes. */
  get size(): number {
    return this.payload.length + headerBytes(this.parts.headers) + 256;
  }

  /** Its first frame. */
  first(now: number): NonNullable<Frame["body"]> {
    const p = this.parts;
    const value: Request = {
      address: p.address,
      method: p.method,
      push: p.push,
      timeLeftUs: p.due === Infinity ? 0n : BigInt(Math.max(1, Math.floor((p.due - now) * 1000))),
      headers: p.headers,
      traceTag: p.traceTag,
      payload: this.large ? p.payload.subarray(0, partBytes) : p.payload,
      totalSize: this.large ? BigInt(p.payload.length) : 0n,
      hops: 0,
      onBehalf: "",
      stream: false,
    };
    return { $case: "request", value };
  }

  succeed(reply: Reply): void {
    if (this.settle()) this.resolve(reply);
  }

  /** A push, or a connect(), has what it waited for. */
  accept(): void {
    this.succeed(undefined as unknown as Reply);
  }

  fail(t: Trouble): void {
    if (this.settle()) this.reject(new MeshError(t.verdict, { ...t, node: this.node, target: this.parts.target, method: this.parts.method }));
  }

  /** The handler's "deadline exceeded" that comes after the deadline itself is the latter, whichever this process sees first. */
  tooLate(t: Trouble, now: number): Trouble {
    if (t.code !== status.DEADLINE_EXCEEDED || t.reason || now < this.parts.due) return t;
    return trouble("maybe executed", "DEADLINE_EXCEEDED", "its deadline passed after it was sent");
  }

  private settle(): boolean {
    if (this.settled) return false;
    this.settled = true;
    this.onSettled();
    return true;
  }
}

/** The reply of a frame and a whole payload. */
export function replyOf(frame: ReplyFrame, payload: Buffer): Reply {
  return { payload, headers: toMetadata(frame.headers), trailers: toMetadata(frame.trailers) };
}

/** The trouble of a reply that breaks the rules for parts. */
export function badReply(err: unknown): Trouble {
  return trouble("maybe executed", "INVALID_REQUEST", `invalid large reply: ${textOf(err)}`);
}

export function failureOf(failure: Failure): Trouble {
  return failed(failure);
}
