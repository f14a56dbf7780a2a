import { Metadata, status } from "@grpc/grpc-js";

import { textOf } from "./errors.js";
import type { Failure, Frame, Registered, Reply as ReplyFrame, Request } from "./gen/mesh/v1/cluster.js";
import { Reason } from "./gen/mesh/v1/cluster.js";
import { fromMetadata, headerBytes, maxHeaderBytes, toMetadata } from "./headers.js";
import type { Peer, Settings } from "./hello.js";
import { failureFrom, type Incoming, type Outcome, refusal, replyFrom } from "./incoming.js";
import { addParts, partRoom } from "./outlet.js";
import { Bulk, Joiner, type Parcel, partBytes, partTimeoutMs, weight } from "./parts.js";
import type { Batch, Wire } from "./wire.js";

type Body = NonNullable<Frame["body"]>;

/** A name's handler and its queue. */
export interface Service {
  /** Runs or queues a request. */
  submit(task: Task): void;
}

/** One request, from its first frame to its answer. */
export class Task {
  readonly abort = new AbortController();
  readonly incoming: Incoming;
  started = false;
  cancelled = false; // by the caller, or by the stream's end
  answered = false;
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly inlet: Inlet,
    readonly session: bigint,
    request: Request,
    name: string,
    payload: Buffer,
    private readonly due: number,
  ) {
    this.incoming = {
      name,
      method: request.method,
      payload,
      headers: toMetadata(request.headers),
      traceTag: request.traceTag,
      push: request.push,
      timeLeftMs: due === Infinity ? undefined : Math.max(0, due - performance.now()),
      signal: this.abort.signal,
    };
  }

  get bytes(): number {
    return this.incoming.payload.length + 256;
  }

  /** Runs the handler and answers. Never rejects. */
  async run(handler: (request: Incoming) => Outcome | Promise<Outcome>, panicked: (id: string, thrown: unknown) => void): Promise<void> {
    if (this.answered || (this.cancelled && !this.incoming.push)) return;
    if (performance.now() >= this.due) return this.inlet.fail(this, refusal(Reason.EXPIRED, "the deadline had passed when the call's turn came"));
    this.started = true;
    if (this.due !== Infinity) {
      this.timer = setTimeout(
        () => this.abort.abort(new DOMException("the deadline passed", "TimeoutError")),
        Math.min(Math.ceil(this.due - performance.now()), 2 ** 31 - 1), // never early
      );
    }
    try {
      this.inlet.reply(this, replyFrom(await handler(this.incoming)));
    } catch (err) {
      // Whatever a handler fails with after its signal was aborted, that is why.
      if (this.cancelled) this.inlet.fail(this, cancelledFailure());
      else if (this.abort.signal.aborted) this.inlet.fail(this, deadlinePassed());
      else this.inlet.fail(this, failureFrom(err, panicked));
    } finally {
      clearTimeout(this.timer);
    }
  }

  /** Nobody waits any more. */
  cancel(why: string): void {
    if (this.cancelled) return;
    this.cancelled = true;
    this.abort.abort(new DOMException(why, "AbortError"));
  }
}

const cancelledFailure = (): Failure => refusal(Reason.CANCELLED, "the caller cancelled");

const deadlinePassed = (): Failure => ({
  ...refusal(Reason.HANDLER, "the deadline passed"),
  code: status.DEADLINE_EXCEEDED,
});

interface Joining {
  join: Joiner;
  request: Request;
  name: string;
  due: number;
}

interface Answer extends Parcel {
  first: ReplyFrame;
}

/** The limits of a Serve beside its settings. */
export interface Held {
  /** Payload bytes that wait or run, and pushes that do. */
  bytes: number;
  pushes: number;
}

/** What an inlet asks of its Serve. */
export interface Owner {
  readonly settings: Settings;
  readonly maxQueueBytes: number;
  readonly held: Held;
  find(name: string): Service | undefined;
  registered(session: bigint, answer: Registered | Failure): void;
}

/** The state of one open stream of a Serve: what came down it and has no answer yet. */
export class Inlet {
  leaving = false; // goaway was asked for
  dead = false;
  readonly openedAt = performance.now();
  readonly orders: { session: bigint; body: Body }[] = []; // register and unregister
  private said = false; // the goaway left
  private last = 0n;
  private readonly calls = new Map<bigint, Task | undefined>(); // taken and not answered; undefined: parts arrive
  private readonly joins = new Map<bigint, Joining>();
  private unfinished = 0;
  private readonly small: { session: bigint; body: Body; size: number }[] = [];
  private readonly blocked: Answer[] = []; // large replies that may not begin yet
  private readonly bulk: Bulk<Answer>;
  private checked = this.openedAt;

  constructor(
    readonly wire: Wire,
    readonly peer: Peer,
    private readonly owner: Owner,
  ) {
    this.bulk = new Bulk(peer.limits.unfinished);
  }

  /** Takes a frame. What it throws ends the stream. */
  frame(frame: Frame): void {
    const { session, body } = frame;
    switch (body?.$case) {
      case "request":
      case undefined:
        this.begin(session, body?.value);
        break;
      case "part":
        this.part(session, body.value.payload);
        break;
      case "cancel":
        this.cancelled(session);
        break;
      case "registered":
      case "failure":
        this.owner.registered(session, body.value);
        break;
      default: // what only a program says, and streams
    }
    this.overdue();
  }

  private begin(session: bigint, request: Request | undefined): void {
    if (session <= this.last) {
      if (!request) return;
      throw new Error(`protocol error: session ${session} is not above the last one, ${this.last}`);
    }
    if (this.leaving) return; // the goaway says that it was not taken
    this.last = session;
    const push = request?.push ?? false;
    const refused = request ? (this.wrong(request) ?? (push ? undefined : this.overloaded())) : invalid("the frame has no body that this version knows");
    if (!push) this.calls.set(session, undefined);
    if (refused) return this.refuse(session, push, refused);
    const r = request!;
    const name = r.address!.value as string;
    const due = r.timeLeftUs > 0n ? performance.now() + Number(r.timeLeftUs) / 1000 : Infinity;
    if (r.totalSize > 0n) this.joining(session, r, name, due);
    else this.dispatch(new Task(this, session, r, name, r.payload, due));
  }

  /** Says why a request cannot be taken, by itself. */
  private wrong(r: Request): Failure | undefined {
    const most = this.owner.settings.maxMessageBytes;
    const size = Math.max(Number(r.totalSize), r.payload.length);
    if (!r.address) return invalid("it has no address: set name or handle");
    if (r.stream) return invalid("this program did not say the feature streams");
    if (Buffer.byteLength(r.method) > 1024) return invalid("the method is longer than 1024 bytes");
    if (headerBytes(r.headers) + Buffer.byteLength(r.traceTag) > maxHeaderBytes) return invalid(`the headers are longer than ${maxHeaderBytes} bytes`);
    if (r.totalSize === 0n && r.payload.length > partBytes) return invalid(`a payload of more than ${partBytes} bytes travels in parts: set total_size`);
    if (size > most) return refusal(Reason.TOO_LARGE, `too large: ${size} bytes; at most ${most} are taken`);
    if (r.address.$case === "handle") return refusal(Reason.STALE_HANDLE, "the handle is none of this program's");
    if (!this.owner.find(r.address.value)) return refusal(Reason.NAME_NOT_FOUND, `name not found: ${JSON.stringify(r.address.value)}`);
    return undefined;
  }

  private overloaded(): Failure | undefined {
    const { settings, maxQueueBytes, held } = this.owner;
    if (this.calls.size >= settings.maxCalls) return refusal(Reason.OVERLOADED, `overloaded: calls in flight, at most ${settings.maxCalls}`);
    if (held.bytes >= maxQueueBytes) return refusal(Reason.OVERLOADED, `overloaded: requests in this program, at most ${maxQueueBytes} bytes`);
    return undefined;
  }

  private joining(session: bigint, request: Request, name: string, due: number): void {
    const total = Number(request.totalSize);
    try {
      const join = new Joiner(request.payload, total, performance.now());
      const most = this.owner.settings.maxUnfinishedBytes;
      if (this.unfinished + weight(total) > most) {
        return this.refuse(session, request.push, refusal(Reason.OVERLOADED, `overloaded: unfinished messages, at most ${most} bytes`));
      }
      this.unfinished += weight(total);
      this.joins.set(session, { join, request, name, due });
    } catch (err) {
      this.refuse(session, request.push, invalidLarge(err));
    }
  }

  private part(session: bigint, payload: Buffer): void {
    const j = this.joins.get(session);
    if (!j) return; // nobody's
    try {
      const whole = j.join.add(payload, performance.now());
      if (!whole) return;
      this.unjoin(session, j);
      this.dispatch(new Task(this, session, j.request, j.name, whole, j.due));
    } catch (err) {
      this.unjoin(session, j);
      this.refuse(session, j.request.push, invalidLarge(err));
    }
  }

  private unjoin(session: bigint, j: Joining): void {
    this.joins.delete(session);
    this.unfinished -= weight(j.join.total);
  }

  /** Fails the large requests whose parts have stopped arriving; looks once a second. */
  private overdue(): void {
    const now = performance.now();
    if (this.joins.size === 0 || now - this.checked < 1000) return;
    this.checked = now;
    for (const [session, j] of this.joins) {
      if (now - j.join.latest < partTimeoutMs) continue;
      this.unjoin(session, j);
      this.refuse(session, j.request.push, invalidLarge(new Error(`no part for ${partTimeoutMs / 1000} s`)));
    }
  }

  /** Places a whole request. */
  private dispatch(task: Task): void {
    const service = this.owner.find(task.incoming.name);
    if (!service) return this.refuse(task.session, task.incoming.push, refusal(Reason.NAME_NOT_FOUND, "name not found: it was taken back"));
    if (!task.incoming.push) this.calls.set(task.session, task);
    service.submit(task);
  }

  /** Parts could not arrive while this side did not read. */
  readOn(): void {
    const now = performance.now();
    for (const j of this.joins.values()) j.join.latest = now;
    this.wire.resume();
  }

  private cancelled(session: bigint): void {
    const j = this.joins.get(session);
    if (j) {
      this.unjoin(session, j);
      return this.refuse(session, j.request.push, cancelledFailure());
    }
    const task = this.calls.get(session);
    if (!task) return; // late, or nobody's
    task.cancel("the caller cancelled");
    if (!task.started) this.fail(task, cancelledFailure());
    this.withdraw(session);
  }

  /** Breaks off a large reply that nobody waits for. */
  private withdraw(session: bigint): void {
    const i = this.blocked.findIndex((a) => a.session === session);
    if (i >= 0) this.blocked.splice(i, 1);
    else if (!this.bulk.stopWhere((a) => a.session === session)) return;
    this.refuse(session, false, cancelledFailure());
  }

  /** Answers a call with a handler's result. Does nothing for a push. */
  reply(task: Task, r: { payload: Buffer; headers: Metadata; trailers: Metadata }): void {
    if (task.cancelled) return this.fail(task, cancelledFailure());
    if (task.incoming.push || task.answered) return;
    const n = r.payload.length;
    const most = Math.min(this.peer.limits.message, this.owner.settings.maxMessageBytes);
    const value: ReplyFrame = { payload: r.payload, totalSize: 0n, headers: fromMetadata(r.headers), trailers: fromMetadata(r.trailers) };
    if (headerBytes(value.headers) + headerBytes(value.trailers) > maxHeaderBytes) {
      const f = refusal(Reason.HANDLER, `the reply's headers and trailers are longer than ${maxHeaderBytes} bytes`);
      return this.fail(task, { ...f, code: status.INTERNAL });
    }
    if (n > most || (n > partBytes && weight(n) > this.peer.limits.unfinished)) {
      return this.fail(task, refusal(Reason.REPLY_TOO_LARGE, `reply too large: ${n} bytes; at most ${Math.min(most, this.peer.limits.unfinished)} are taken`));
    }
    task.answered = true;
    if (this.dead) return;
    if (n <= partBytes) {
      this.queue(task.session, { $case: "reply", value }, n + headerBytes(value.headers) + headerBytes(value.trailers));
    } else {
      value.payload = r.payload.subarray(0, partBytes);
      value.totalSize = BigInt(n);
      this.blocked.push({ session: task.session, payload: r.payload, offset: 0, first: value });
      this.wire.wake();
    }
  }

  /** Answers a call with a failure. Does nothing for a push. */
  fail(task: Task, failure: Failure): void {
    if (task.answered || task.incoming.push) return;
    task.answered = true;
    this.refuse(task.session, false, failure);
  }

  private refuse(session: bigint, push: boolean, failure: Failure): void {
    if (push || this.dead) return;
    this.queue(session, { $case: "failure", value: failure }, 1024 + 3072 + 8192);
  }

  private queue(session: bigint, body: Body, size: number): void {
    this.small.push({ session, body, size: size + 64 });
    this.wire.wake();
  }

  /** Says that no more is taken, and lets what was end. */
  goaway(): void {
    this.leaving = true;
    this.wire.wake();
  }

  /** Adds what may be sent now; true: the last answer has left after a goaway. */
  fill(batch: Batch): boolean {
    while (this.orders.length > 0 && batch.fits(512)) {
      const order = this.orders.shift()!;
      batch.add(order.session, order.body);
    }
    if (this.leaving && !this.said) {
      this.said = true;
      batch.add(0, { $case: "goaway", value: { lastSession: this.last, message: "the program is leaving" } });
    }
    const room = () => (this.bulk.empty && this.blocked.length === 0 ? 0 : partRoom);
    while (this.small.length > 0 && (batch.empty || batch.fits(this.small[0]!.size + room()))) {
      const { session, body } = this.small.shift()!;
      batch.add(session, body);
      this.calls.delete(session);
    }
    while (this.blocked.length > 0 && this.bulk.mayBegin(this.blocked[0]!.payload.length) && batch.fits(partRoom + maxHeaderBytes)) {
      const answer = this.blocked.shift()!;
      batch.add(answer.session, { $case: "reply", value: answer.first });
      this.bulk.begin(answer);
    }
    addParts(this.bulk, batch, (answer) => this.calls.delete(answer.session));
    return this.leaving && batch.empty && this.calls.size === 0 && this.joins.size === 0;
  }

  /** The stream has ended: nobody waits for what it brought. */
  release(why: string): void {
    this.dead = true;
    this.joins.clear();
    for (const task of this.calls.values()) task?.cancel(why);
    this.calls.clear();
  }
}

function invalid(what: string): Failure {
  return refusal(Reason.INVALID_REQUEST, `invalid request: ${what}`);
}

function invalidLarge(err: unknown): Failure {
  return refusal(Reason.INVALID_REQUEST, `invalid large request: ${textOf(err)}`);
}
