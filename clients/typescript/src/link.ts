import type { MethodDefinition } from "@grpc/grpc-js";

import type { LinkOptions, LinkState, LinkStats, Reply, SendOptions } from "./api.js";
import { Backoff } from "./backoff.js";
import { type Condition, MeshError, textOf, type Trouble, trouble } from "./errors.js";
import { type Frame, Reason } from "./gen/mesh/v1/cluster.js";
import { PingRequest, PingResponse, QueryRequest, QueryResponse } from "./gen/mesh/v1/process.js";
import { fromMetadata, headerBytes, maxHeaderBytes } from "./headers.js";
import { helloOf, type Peer, type Settings, settingsOf } from "./hello.js";
import { Line } from "./line.js";
import { addressOf, BadTarget, checkName, Message } from "./message.js";
import { Outlet, partRoom } from "./outlet.js";
import { type Batch, type Dial, dialOf, type Role, Wire } from "./wire.js";

/** How long a node that said goaway counts as leaving: its failed dials are told to nobody. */
const leavingMs = 30_000;

/**
 * A link to one node: calls and pushes go up, answers come down. It is opened
 * by the first message, and again, after a break, by the next one. Messages to
 * one target leave in the order in which they were made.
 *
 * A message that is made while the link is not open waits in its line. The
 * bytes of a payload are copied when it is made.
 */
export class Link {
  readonly node: string;

  private readonly settings: Settings;
  private readonly dialing: Omit<Dial, "hello">;
  private readonly backoff: Backoff;
  private readonly sendWaitMs: number;
  private readonly onState: (state: LinkState) => void;

  private phase: "idle" | "dialling" | "open" | "pause" = "idle";
  private current: Outlet | undefined;
  private wires = new Set<Wire>(); // all that have not ended
  private readonly line: Line;
  private lastError: Trouble | undefined; // of the last try
  private leftUntil = -Infinity; // the node is leaving until then
  private pauseTimer: NodeJS.Timeout | undefined;
  private upWaiters = new Set<Message>(); // connect(): no message at all
  private dials = 0;
  private dialsFailed = 0;
  private closing: Promise<void> | undefined;
  private allEnded: (() => void) | undefined;

  /**
   * Makes a link. Nothing is dialled yet.
   *
   * @param address where the node listens: `host:port`, `[IPv6]:port` or `unix:/path`
   * @throws TypeError, RangeError where the address or an option cannot be used
   */
  constructor(address: string, options: LinkOptions = {}) {
    this.settings = settingsOf(options);
    this.node = options.node ?? "";
    if (this.node !== "" && !/^(?!__)[\w-]{1,255}$/.test(this.node)) {
      throw new TypeError(`node ${JSON.stringify(this.node)}: a node name has 1 to 255 letters, digits, "_" and "-", and does not begin with "__"`);
    }
    const { connectTimeoutMs, maxBatchBytes, backoffMinMs, backoffMaxMs } = this.settings;
    this.dialing = { kind: "link", connectTimeoutMs, maxBatchBytes, ...dialOf(address, options) };
    this.backoff = new Backoff(backoffMinMs, backoffMaxMs);
    this.line = new Line(options.lineCalls ?? 16384, options.linePushBytes ?? 4 << 20);
    this.sendWaitMs = options.sendWaitMs ?? 1000;
    this.onState = options.onState ?? (() => undefined);
  }

  /** The node's address. */
  get address(): string {
    return this.dialing.address;
  }

  /** What was counted since the link was made. */
  get stats(): LinkStats {
    return { dials: this.dials, dialsFailed: this.dialsFailed, pushesLost: this.line.pushesLost };
  }

  /** The process at the other end, while the link is open. */
  get peer(): Peer | undefined {
    return this.current?.peer;
  }

  /**
   * Calls a service and resolves with its one reply.
   *
   * @param target `"@name"`, `".name"`, or a handle: `":"` and 16 hex digits, or a bigint
   * @param method free text for plain handlers, at most 1 KiB; a full gRPC method for stubs
   * @param payload at most what the node takes, 64 MiB by default
   * @throws MeshError, whose verdict says whether it may have been executed
   */
  async call(target: string | bigint, method: string, payload: Uint8Array | string = "", options: SendOptions = {}): Promise<Reply> {
    return this.send(target, method, payload, options, false);
  }

  /**
   * Sends a one-way message. Resolves when it stands in the line of an open
   * link; what happens to it later is told to nobody ({@link stats} counts what
   * a goaway loses). Where the line is full it waits, at most `sendWaitMs`.
   *
   * @throws MeshError: not sent
   */
  async push(target: string | bigint, method: string, payload: Uint8Array | string = "", options: SendOptions = {}): Promise<void> {
    await this.send(target, method, payload, options, true);
  }

  /**
   * Calls a unary method of a generated service definition (ts-proto,
   * grpc-tools, proto-loader): `link.invoke("@sdb", SimpleDBServiceService.get, { key })`.
   */
  async invoke<Req, Res>(target: string | bigint, method: MethodDefinition<Req, Res>, request: Req, options: SendOptions = {}): Promise<Res> {
    if (method.requestStream || method.responseStream) throw new TypeError(`${method.path} is a streaming method: call it through a gateway`);
    const reply = await this.call(target, method.path, method.requestSerialize(request), options);
    return method.responseDeserialize(reply.payload);
  }

  /** Asks for the handle behind a name (`"@sdb"`). It stays valid for this life of the process. */
  async query(name: string, options: SendOptions = {}): Promise<bigint> {
    const reply = await this.send(0n, "Query", QueryRequest.encode({ name }).finish(), options, false, name);
    return QueryResponse.decode(reply.payload).handle;
  }

  /** Asks the process at the other end for its payload back, its name and its incarnation. */
  async ping(payload: Uint8Array = new Uint8Array(), options: SendOptions = {}): Promise<{ payload: Buffer; process: string; incarnation: number }> {
    const reply = await this.call(0n, "Ping", PingRequest.encode({ payload: Buffer.from(payload) }).finish(), options);
    return PingResponse.decode(reply.payload);
  }

  /** Opens the link, if it is not open, and resolves when it is. */
  async connect(options: Pick<SendOptions, "timeoutMs" | "signal" | "noWait" | "waitUp"> = {}): Promise<Peer> {
    if (this.current) return this.current.peer;
    const m = this.message("", { $case: "handle", value: 0n }, "", "", options, false);
    await this.submit(m, options, true);
    return this.current!.peer;
  }

  /**
   * Ends the link in good order: what stands in the line is sent, calls get
   * their answers, pushes are placed. After `drainMs` the rest is cut. Never
   * rejects; what is made after it fails: not sent, CLOSED. Safe to call twice.
   */
  close(options: { timeoutMs?: number } = {}): Promise<void> {
    this.closing ??= this.shut(options.timeoutMs ?? this.settings.drainMs);
    return this.closing;
  }

  /** `await using link = new Link(...)` closes it. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private async send(target: string | bigint, method: string, payload: Uint8Array | string, options: SendOptions, push: boolean, shown?: string): Promise<Reply> {
    const text = shown ?? (typeof target === "bigint" ? `:${target.toString(16).padStart(16, "0")}` : target);
    try {
      if (shown !== undefined) checkName(shown);
      const m = this.message(text, addressOf(target), method, payload, options, push);
      const wrong =
        Buffer.byteLength(method) > 1024 ? "the method is longer than 1024 bytes"
        : headerBytes(m.parts.headers) + Buffer.byteLength(m.parts.traceTag) > maxHeaderBytes ? `the headers are longer than ${maxHeaderBytes} bytes`
        : "";
      if (wrong) throw this.error(trouble("not sent", "INVALID_REQUEST", `invalid request: ${wrong}`), text, method);
      return await this.submit(m, options, false);
    } catch (err) {
      if (err instanceof BadTarget) throw this.error(trouble("not sent", err.reason, err.message), text, method);
      throw err;
    }
  }

  private error(t: Trouble, target: string, method: string): MeshError {
    return new MeshError(t.verdict, { ...t, node: this.node, target, method });
  }

  private message(target: string, address: Message["parts"]["address"], method: string, payload: Uint8Array | string, o: SendOptions, push: boolean): Message {
    if (o.timeoutMs !== undefined && !(o.timeoutMs >= 0)) throw new RangeError(`timeoutMs is ${o.timeoutMs}; it is a number of ms, 0 or more`);
    return new Message(
      {
        target,
        address,
        method,
        payload: Buffer.from(payload as Uint8Array), // of a text its UTF-8
        headers: fromMetadata(o.headers),
        traceTag: o.traceTag ?? "",
        push,
        noWait: o.noWait ?? false,
        waitUp: o.waitUp ?? false,
        due: o.timeoutMs === undefined ? Infinity : performance.now() + o.timeoutMs,
      },
      this.node,
    );
  }

  /** Lets a message wait for what it needs, and its caller for its outcome. */
  private submit(m: Message, o: SendOptions, connect: boolean): Promise<Reply> {
    const refused = this.refuses(m);
    if (refused) {
      m.fail(refused);
      return m.promise;
    }
    const timers: NodeJS.Timeout[] = [];
    const leave = (reason: Condition, why: string) => this.leave(m, reason, why);
    const aborted = () => {
      const timeout = (o.signal!.reason as Error | undefined)?.name === "TimeoutError";
      leave(timeout ? "DEADLINE_EXCEEDED" : "CANCELLED", timeout ? "the signal's time was over" : "the caller gave up");
    };
    m.onSettled = () => {
      timers.forEach(clearTimeout);
      o.signal?.removeEventListener("abort", aborted);
    };
    if (connect) this.upWaiters.add(m);
    else if (!this.line.add(m)) timers.push(setTimeout(() => this.line.giveUp(m), this.sendWaitMs));
    else if (m.push && this.current) m.accept();
    if (o.timeoutMs !== undefined && o.timeoutMs !== Infinity) {
      timers.push(setTimeout(() => leave("DEADLINE_EXCEEDED", "its deadline passed"), Math.min(Math.ceil(o.timeoutMs), 2 ** 31 - 1)));
    }
    o.signal?.addEventListener("abort", aborted);
    if (o.signal?.aborted) aborted();
    if (m.settled) m.onSettled(); // a push that found an open link
    this.current?.wire.wake();
    this.kick();
    return m.promise;
  }

  /** Says why a message cannot even wait. */
  private refuses(m: Message): Trouble | undefined {
    if (this.closing) return trouble("not sent", "CLOSED", "the link is closed");
    if (this.phase === "pause" && m.parts.noWait) return this.lastError;
    return this.line.refuses(m) ?? this.current?.refuses(m);
  }

  /** Its caller leaves. */
  private leave(m: Message, reason: Condition, why: string): void {
    if (m.settled) return;
    const sent = m.place === "sent";
    if (sent) m.out!.cancel(m);
    else if (!this.upWaiters.delete(m)) this.line.remove(m, this.current);
    const obstacle = !sent && !this.current && this.lastError ? `; the last try: ${this.lastError.message}` : "";
    m.fail(trouble(sent ? "maybe executed" : "not sent", reason, sent ? `${why} after it was sent` : `${why} while it waited to be sent${obstacle}`));
    this.current?.wire.wake(); // what stood behind it may pass now
  }

  /** Dials where someone waits and nothing is under way. */
  private kick(): void {
    if (this.phase !== "idle" || this.closing || (this.line.empty && this.upWaiters.size === 0)) return;
    this.phase = "dialling";
    this.dials++;
    this.tell({ state: "connecting" });
    const role: Role & { wire?: Wire; outlet?: Outlet } = {
      opened: (peer) => {
        // The constructor of Wire has returned long before a peer answers.
        role.outlet = new Outlet(role.wire!, peer, this.settings);
        this.opened(role.outlet);
      },
      frame: (frame) => this.frame(role.outlet!, frame),
      fill: (batch) => this.fill(role.outlet!, batch),
      ended: (cause) => {
        if (role.wire) this.wires.delete(role.wire);
        if (role.outlet) this.lost(role.outlet, cause);
        else this.unreachable(cause!);
        if (this.wires.size === 0) this.allEnded?.();
      },
    };
    Wire.open({ ...this.dialing, hello: helloOf(this.settings, this.node) }, role, (wire) => {
      role.wire = wire;
      this.wires.add(wire);
    });
  }

  private opened(o: Outlet): void {
    this.current = o;
    this.phase = "open";
    this.lastError = undefined;
    this.line.accept();
    for (const m of this.upWaiters) m.accept();
    this.upWaiters.clear();
    this.tell({ state: "up", peer: o.peer });
  }

  private unreachable(cause: Error): void {
    if (this.phase !== "dialling") return;
    this.dialsFailed++;
    this.lastError = this.connectTrouble(cause);
    this.pause();
    const patient = performance.now() < this.leftUntil;
    this.failWaiting(this.lastError, (m) => m.parts.noWait || (!m.parts.waitUp && !patient));
    if (!this.closing) this.tell({ state: "lost", reason: this.lastError.message });
  }

  private connectTrouble(cause: Error): Trouble {
    return trouble("not sent", "CONNECT_FAILED", `connect [${this.node}] (${this.address}): ${cause.message}`, cause);
  }

  private pause(): void {
    this.phase = "pause";
    if (this.closing) return;
    this.pauseTimer = setTimeout(() => {
      this.phase = "idle";
      this.kick();
    }, this.backoff.next());
  }

  /** Fails what waits, where which says so. */
  private failWaiting(t: Trouble, which: (m: Message) => boolean): void {
    this.line.fail(t, this.current, which);
    for (const m of [...this.upWaiters].filter(which)) {
      this.upWaiters.delete(m);
      m.fail(t);
    }
  }

  private frame(o: Outlet, frame: Frame): void {
    const body = frame.body;
    if (body?.$case === "goaway") {
      this.goaway(o, Number(body.value.lastSession), body.value.message);
    } else if (body?.$case === "failure" && body.value.reason === Reason.DRAINING && o.leaving) {
      const m = o.flights.get(Number(frame.session));
      if (m && !m.gone) this.resend(o, [m]);
      else o.answer(frame);
      this.kick();
    } else if (body && o.answer(frame) === undefined && o.cancels.length === 0) {
      o.overdue();
      return;
    }
    o.overdue();
    o.wire.wake(); // a place among the calls in flight may be free
  }

  /** Gives a link what it may send next: small frames first, then parts. */
  private fill(o: Outlet, batch: Batch): boolean {
    if (o.dead) return false;
    o.fillCancels(batch);
    if (o === this.current) this.fillLine(o, batch);
    o.fillParts(batch, (push) => this.release(o, push));
    const rest = o === this.current ? this.line.size + o.blocked.size : 0;
    return batch.empty && o.ending && o.idle && rest === 0;
  }

  private fillLine(o: Outlet, batch: Batch): void {
    for (let m = this.line.next(o); m; m = this.line.next(o)) {
      if (!batch.fits(m.bound + (o.bulk.empty ? 0 : partRoom))) return;
      this.line.remove(m, o);
      o.begin(m);
      batch.add(m.session, m.first(performance.now()));
    }
  }

  /** Lets go what a large push has held back: it goes to the front. */
  private release(o: Outlet, push: Message): void {
    const held = o.aside.get(push.addressee);
    o.aside.delete(push.addressee);
    if (!held?.size) return;
    this.line.putBack([...held], true);
    o.wire.wake();
  }

  /** Takes calls that certainly did not start from a link, for the next one. */
  private resend(o: Outlet, calls: Message[]): void {
    for (const m of calls) {
      o.drop(m);
      m.out = undefined;
      m.place = "done";
    }
    const back = calls.filter((m) => !m.settled);
    if (this.closing && !this.current) {
      for (const m of back) m.fail(trouble("not sent", "GOAWAY", "the node left and did not take it, and the link is closed"));
      return;
    }
    this.line.putBack(back, false);
    this.current?.wire.wake();
  }

  /** The link is the current one no longer; what waits on it goes back to the line. */
  private retire(o: Outlet): void {
    if (this.current !== o) return;
    this.current = undefined;
    this.phase = "idle";
    const waiting = [o.blocked, ...o.aside.values()].flatMap((set) => [...set]);
    o.blocked.clear();
    o.aside.clear();
    this.line.putBack(waiting, true);
  }

  private goaway(o: Outlet, last: number, why: string): void {
    if (o.leaving) return;
    o.leaving = o.ending = true;
    const now = performance.now();
    if (o === this.current) {
      this.leftUntil = now + leavingMs;
      this.retire(o);
      if (last === 0 && now - o.openedAt < this.settings.backoffMinMs) {
        this.lastError = this.connectTrouble(new Error("the node is leaving")); // it opened only to leave
        this.pause();
      } else {
        this.backoff.reset();
      }
      this.tell({ state: "leaving", reason: why });
    }
    const untaken = [...o.flights].filter(([session]) => session > last).map(([, m]) => m);
    this.line.pushesLost += Math.max(0, o.session - last) - untaken.length;
    o.bulk.stopWhere((m) => m.push && Number(m.session) > last);
    this.resend(o, untaken);
    if (this.closing) this.failWaiting(trouble("not sent", "CLOSED", "the link is closed, and the node left"), () => true);
    this.kick();
  }

  private lost(o: Outlet, cause: Error | undefined): void {
    o.dead = true;
    const was = this.current === o;
    const reason = cause?.message ?? "the node ended the link";
    this.retire(o);
    const broken = trouble("maybe executed", "LINK_BROKEN", `link to [${this.node}] broke: ${reason}`, cause);
    for (const m of [...o.flights.values()]) {
      o.drop(m);
      m.place = "done";
      m.fail(broken);
    }
    if (!was) return;
    if (this.closing) {
      this.failWaiting(trouble("not sent", "CLOSED", `the link is closed, and it broke: ${reason}`), () => true);
      return;
    }
    // A link that breaks soon after it opened counts as a failed try, so that a
    // node that dies again and again is not dialled without a pause.
    if (performance.now() - o.openedAt < this.settings.backoffMaxMs) {
      this.lastError = this.connectTrouble(new Error(reason, { cause }));
      this.pause();
      this.failWaiting(this.lastError, (m) => m.parts.noWait);
    } else {
      this.backoff.reset();
    }
    this.tell({ state: "lost", reason });
    this.kick();
  }

  private async shut(drainMs: number): Promise<void> {
    await undefined; // so that closing is set
    clearTimeout(this.pauseTimer);
    const closed = trouble("not sent", "CLOSED", "the link is closed");
    this.failWaiting(closed, (m) => !this.current || m.place === "room");
    if (!this.current) for (const wire of this.wires) if (!wire.peer) wire.end(new Error("the link is closed"));
    if (this.current) {
      this.current.ending = true;
      this.current.wire.wake();
    }
    if (this.wires.size > 0) await this.drain(drainMs);
    this.tell({ state: "closed" });
  }

  /** Waits until every wire has ended, and cuts them when the time is over. */
  private drain(drainMs: number): Promise<void> {
    return new Promise((resolve) => {
      const cut = setTimeout(() => {
        for (const wire of [...this.wires]) wire.end(new Error("the drain time was over"));
      }, drainMs);
      this.allEnded = () => {
        clearTimeout(cut);
        resolve();
      };
    });
  }

  private tell(state: LinkState): void {
    try {
      this.onState(state);
    } catch (err) {
      queueMicrotask(() => {
        throw new Error(`onState failed: ${textOf(err)}`, { cause: err }); // the user's mistake, not the link's
      });
    }
  }
}
