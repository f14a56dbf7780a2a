import { Backoff } from "./backoff.js";
import { failed, MeshError, textOf, type Trouble, trouble } from "./errors.js";
import type { Failure, Registered } from "./gen/mesh/v1/cluster.js";
import { type CommonOptions, helloOf, type Peer, type Settings, settingsOf } from "./hello.js";
import type { Handler } from "./incoming.js";
import { Inlet, type Service, type Task } from "./inlet.js";
import type { LinkState } from "./api.js";
import { BadTarget, checkName } from "./message.js";
import { type Dial, type DialOptions, dialOf, type Role, Wire } from "./wire.js";

/** Options of a {@link Serve}. */
export interface ServeOptions extends CommonOptions, DialOptions {
  /** How many calls this program takes at once. The node keeps or refuses the rest. Default 16384. */
  maxCalls?: number;
  /** How many pushes may wait and run; beyond it the stream is not read. Default 16384. */
  maxPushes?: number;
  /** How many bytes of requests may wait and run: calls beyond are refused (overloaded), pushes stop the reading. Default 134217728. */
  maxQueueBytes?: number;
  /** Is told of each change of the stream's state, in order. */
  onState?: (state: LinkState) => void;
  /**
   * Is told what went wrong here: a handler that threw what is no StatusError
   * (the caller gets the id), or a name that could not be registered again on
   * a new stream. Default: console.error.
   */
  onError?: (err: Error) => void;
}

/** Options of a name. */
export interface RegisterOptions {
  /** Several programs may serve the name, if all of them say so: each request goes to one of them. Default false. */
  shared?: boolean;
  /** How many of its handlers run at once; the others wait in the order in which they came. Default: no bound but maxCalls. */
  concurrency?: number;
  /** Waits on when a try to open the stream fails, rather than fail with it. Default false. */
  waitUp?: boolean;
  /** How long the registration may take, in ms. Default for ever. */
  timeoutMs?: number;
}

/** One name, its handler, and its queue. */
class Registration implements Service {
  handle = 0n;
  confirmed = false; // on the present stream
  everConfirmed = false;
  retry: NodeJS.Timeout | undefined;
  private running = 0;
  private readonly queue: Task[] = [];

  constructor(
    readonly name: string,
    private readonly handler: Handler,
    readonly options: RegisterOptions,
    private readonly serve: Pick<Serve, "held"> & { panicked(id: string, thrown: unknown): void; done(task: Task): void },
    readonly settled: { resolve(handle: bigint): void; reject(t: Trouble): void },
  ) {}

  submit(task: Task): void {
    this.serve.held.bytes += task.bytes;
    if (task.incoming.push) this.serve.held.pushes++;
    this.queue.push(task);
    this.next();
  }

  private next(): void {
    while (this.queue.length > 0 && this.running < (this.options.concurrency ?? Infinity)) {
      const task = this.queue.shift()!;
      this.running++;
      void task.run(this.handler, (id, thrown) => this.serve.panicked(id, thrown)).finally(() => {
        this.running--;
        this.serve.done(task);
        this.next();
      });
    }
  }
}

/**
 * Answers requests for names in the mesh, for a program that cannot listen: it
 * opens a stream to a node, registers names there, and answers what comes down.
 * While it has names it keeps the stream open: after a break it opens another
 * by itself, with growing pauses, and registers its names again.
 */
export class Serve {
  /** @internal */
  readonly held = { bytes: 0, pushes: 0 };
  /** @internal */
  readonly settings: Settings;
  /** @internal */
  readonly maxQueueBytes: number;

  private readonly dialing: Omit<Dial, "hello">;
  private readonly backoff: Backoff;
  private readonly maxPushes: number;
  private readonly onState: (state: LinkState) => void;
  private readonly onError: (err: Error) => void;

  private phase: "idle" | "dialling" | "open" | "pause" = "idle";
  private inlet: Inlet | undefined;
  private wire: Wire | undefined;
  private stopped = false;
  private session = 0n; // of register and unregister
  private readonly names = new Map<string, Registration>();
  private orders = new Map<bigint, (answer: Registered | Failure | undefined) => void>(); // undefined: the stream broke
  private pauseTimer: NodeJS.Timeout | undefined;
  private closing: Promise<void> | undefined;
  private settle: (() => void) | undefined; // close() waits

  /**
   * Makes a Serve. Nothing is dialled before the first name is registered.
   *
   * @param address where the node listens: `host:port`, `[IPv6]:port` or `unix:/path`
   * @throws TypeError, RangeError where the address or an option cannot be used
   */
  constructor(address: string, options: ServeOptions = {}) {
    this.settings = settingsOf(options);
    const { connectTimeoutMs, maxBatchBytes, backoffMinMs, backoffMaxMs } = this.settings;
    this.dialing = { kind: "serve", connectTimeoutMs, maxBatchBytes, ...dialOf(address, options) };
    this.backoff = new Backoff(backoffMinMs, backoffMaxMs);
    this.maxPushes = options.maxPushes ?? 16384;
    this.maxQueueBytes = options.maxQueueBytes ?? 128 << 20;
    this.onState = options.onState ?? (() => undefined);
    this.onError = options.onError ?? ((err) => console.error(err));
  }

  /** The process at the other end, while the stream is open. */
  get peer(): Peer | undefined {
    return this.inlet?.peer;
  }

  /**
   * Offers a name (`"@model"`; without a sign it is taken as `@`) and resolves
   * with its handle when the node has it. From then on the handler gets the
   * requests for it.
   *
   * @throws MeshError: rejected where the node refuses it (the name is taken),
   *   not sent where the node cannot be reached
   */
  register(name: string, handler: Handler, options: RegisterOptions = {}): Promise<bigint> {
    return new Promise((resolve, reject) => {
      const full = /^[@.]/.test(name) ? name : `@${name}`;
      let timer: NodeJS.Timeout | undefined;
      const settled = {
        resolve: (handle: bigint) => {
          clearTimeout(timer);
          resolve(handle);
        },
        reject: (t: Trouble) => {
          clearTimeout(timer);
          reject(this.error(t, full));
        },
      };
      const refused = this.refuses(full);
      if (refused) return settled.reject(refused);
      const r = new Registration(full, handler, options, this, settled);
      this.names.set(full, r);
      if (options.timeoutMs !== undefined) {
        timer = setTimeout(() => {
          this.withdraw(r, trouble(r.confirmed || this.inlet ? "maybe executed" : "not sent", "DEADLINE_EXCEEDED", "the registration took too long"));
          if (this.inlet) void this.order(full, "unregister");
        }, options.timeoutMs);
      }
      if (this.inlet) this.enrol(r);
      else this.kick();
    });
  }

  private refuses(name: string): Trouble | undefined {
    if (this.closing) return trouble("not sent", "CLOSED", "the Serve is closed");
    if (this.names.has(name)) return trouble("not sent", "INVALID_NAME", `${name} is registered here already: unregister it first`);
    try {
      checkName(name);
      return undefined;
    } catch (err) {
      return trouble("not sent", (err as BadTarget).reason, textOf(err));
    }
  }

  private error(t: Trouble, name: string): MeshError {
    return new MeshError(t.verdict, { ...t, target: name });
  }

  private withdraw(r: Registration, t: Trouble): void {
    clearTimeout(r.retry);
    if (this.names.get(r.name) === r) this.names.delete(r.name);
    r.settled.reject(t);
  }

  /** Takes a name back. Requests that came before are still answered. An unknown name is no error. */
  async unregister(name: string): Promise<void> {
    const full = /^[@.]/.test(name) ? name : `@${name}`;
    const r = this.names.get(full);
    if (!r) return;
    const answer = this.inlet && r.confirmed ? await this.order(full, "unregister") : undefined;
    this.withdraw(r, trouble("not sent", "CANCELLED", "it was unregistered"));
    if (answer && "reason" in answer) throw this.error(failed(answer), full);
  }

  /** Sends a register or unregister and waits for its answer. */
  private order(name: string, kind: "register" | "unregister", shared = false): Promise<Registered | Failure | undefined> {
    return new Promise((resolve) => {
      const session = ++this.session;
      this.orders.set(session, resolve);
      this.inlet!.orders.push({ session, body: kind === "register" ? { $case: kind, value: { name, shared } } : { $case: kind, value: { name } } });
      this.inlet!.wire.wake();
    });
  }

  /** Registers a name on the open stream. */
  private async enrol(r: Registration): Promise<void> {
    const inlet = this.inlet;
    const answer = await this.order(r.name, "register", r.options.shared ?? false);
    if (!answer || this.names.get(r.name) !== r) return; // the stream broke: the next one asks again
    if (!("reason" in answer)) {
      r.handle = answer.handle;
      r.confirmed = r.everConfirmed = true;
      r.settled.resolve(r.handle);
    } else if (!r.everConfirmed) {
      this.withdraw(r, { ...failed(answer), verdict: "rejected" });
    } else {
      // Perhaps the node has not noticed yet that the old stream is gone.
      this.onError(this.error(failed(answer), r.name));
      r.retry = setTimeout(() => {
        if (this.inlet === inlet && !this.closing) void this.enrol(r);
      }, this.settings.backoffMaxMs / 2 + (Math.random() * this.settings.backoffMaxMs) / 2);
    }
  }

  /**
   * Ends in good order: goaway, the answers that are due, the end of the
   * stream. What is not done after `timeoutMs` (default `drainMs`) is cut: the
   * handlers' signals are aborted. Never rejects; safe to call twice.
   */
  close(options: { timeoutMs?: number } = {}): Promise<void> {
    this.closing ??= this.shut(options.timeoutMs ?? this.settings.drainMs);
    return this.closing;
  }

  /** `await using serve = new Serve(...)` closes it. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private async shut(drainMs: number): Promise<void> {
    await undefined; // so that closing is set
    clearTimeout(this.pauseTimer);
    for (const r of this.names.values()) {
      clearTimeout(r.retry);
      r.settled.reject(trouble("not sent", "CLOSED", "the Serve is closed"));
    }
    if (this.wire) await this.drain(drainMs);
    this.names.clear();
    this.tell({ state: "closed" });
  }

  /** Waits until the stream has ended and the handlers have, pushes' included; cuts it when the time is over. */
  private drain(drainMs: number): Promise<void> {
    return new Promise((resolve) => {
      const over = () => {
        clearTimeout(cut);
        resolve();
      };
      const cut = setTimeout(() => {
        this.wire?.end(new Error("the drain time was over"));
        over();
      }, drainMs);
      this.settle = () => {
        if (!this.wire && this.held.bytes === 0) over();
      };
      if (this.inlet) this.inlet.goaway();
      else this.wire!.end(new Error("the Serve is closed"));
    });
  }

  /** @internal */
  find(name: string): Service | undefined {
    return this.names.get(name);
  }

  /** @internal */
  registered(session: bigint, answer: Registered | Failure): void {
    this.orders.get(session)?.(answer);
    this.orders.delete(session);
  }

  /** @internal */
  panicked(id: string, thrown: unknown): void {
    this.onError(new Error(`a handler failed (${id}): ${textOf(thrown)}`, { cause: thrown }));
  }

  /** @internal A request is over. */
  done(task: Task): void {
    this.held.bytes -= task.bytes;
    if (task.incoming.push) this.held.pushes--;
    if (this.stopped && !this.choked) {
      this.stopped = false;
      this.inlet?.readOn();
    }
    this.settle?.();
  }

  /** Says that no more pushes can be taken for now. */
  private get choked(): boolean {
    return this.held.pushes >= this.maxPushes || this.held.bytes >= this.maxQueueBytes;
  }

  private kick(): void {
    if (this.phase !== "idle" || this.closing || this.names.size === 0) return;
    this.phase = "dialling";
    this.tell({ state: "connecting" });
    const role: Role & { inlet?: Inlet } = {
      opened: (peer) => {
        role.inlet = new Inlet(this.wire!, peer, this);
        this.inlet = role.inlet;
        this.phase = "open";
        this.tell({ state: "up", peer });
        for (const r of this.names.values()) void this.enrol(r);
      },
      frame: (frame) => {
        role.inlet!.frame(frame);
        if (!this.stopped && frame.body?.$case !== "cancel" && this.held.pushes > 0 && this.choked) {
          this.stopped = true;
          this.wire!.stop();
        }
      },
      fill: (batch) => role.inlet!.fill(batch),
      ended: (cause) => this.lost(role.inlet, cause),
    };
    Wire.open({ ...this.dialing, hello: helloOf(this.settings, "") }, role, (wire) => (this.wire = wire));
  }

  private lost(inlet: Inlet | undefined, cause: Error | undefined): void {
    const reason = cause?.message ?? "the node ended the stream";
    this.wire = this.inlet = undefined;
    this.stopped = false;
    this.phase = "idle";
    inlet?.release(`the stream ended: ${reason}`);
    const orders = this.orders;
    this.orders = new Map();
    for (const answer of orders.values()) answer(undefined);
    for (const r of this.names.values()) {
      r.confirmed = false;
      clearTimeout(r.retry);
    }
    this.settle?.();
    if (this.closing) return;
    const t = trouble("not sent", "CONNECT_FAILED", `connect (${this.dialing.address}): ${reason}`, cause);
    if (!inlet) for (const r of [...this.names.values()]) if (!r.everConfirmed && !r.options.waitUp) this.withdraw(r, t);
    if (inlet && performance.now() - inlet.openedAt >= this.settings.backoffMaxMs) this.backoff.reset();
    this.phase = "pause";
    this.pauseTimer = setTimeout(() => {
      this.phase = "idle";
      this.kick();
    }, this.backoff.next());
    this.tell({ state: "lost", reason });
  }

  private tell(state: LinkState): void {
    try {
      this.onState(state);
    } catch (err) {
      this.onError(new Error(`onState failed: ${textOf(err)}`, { cause: err }));
    }
  }
}
