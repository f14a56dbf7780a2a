import { type Trouble, trouble } from "./errors.js";
import type { Message } from "./message.js";
import type { Outlet } from "./outlet.js";

/**
 * What waits to be sent on a Link, first come, first served, within bounds; and
 * which message may leave next.
 */
export class Line {
  /** Pushes that were accepted and certainly did not run. */
  pushesLost = 0;

  private line = new Set<Message>();
  private readonly room = new Set<Message>(); // pushes that wait for room in the line
  private calls = 0;
  private pushBytes = 0;
  private order = 0;

  constructor(
    private readonly maxCalls: number,
    private readonly maxPushBytes: number,
  ) {}

  get empty(): boolean {
    return this.line.size + this.room.size === 0;
  }

  /** How many stand in the line itself. */
  get size(): number {
    return this.line.size;
  }

  /** Says why one more message cannot wait. */
  refuses(m: Message): Trouble | undefined {
    if (m.push || this.calls < this.maxCalls) return undefined;
    return trouble("not sent", "OVERLOADED", `the line is full: ${this.calls} calls wait`);
  }

  /** Takes a message; false: it is a push that waits for room. */
  add(m: Message): boolean {
    if (!m.push || (this.room.size === 0 && this.pushBytes < this.maxPushBytes)) {
      this.stand(m);
      return true;
    }
    m.place = "room";
    this.room.add(m);
    return false;
  }

  private stand(m: Message): void {
    m.order = ++this.order;
    m.place = "line";
    this.line.add(m);
    this.count(m, 1);
  }

  /** A push has waited long enough for room. */
  giveUp(m: Message): void {
    if (m.place !== "room") return; // it found room in time; now it waits for the node
    this.room.delete(m);
    m.place = "done";
    m.fail(trouble("not sent", "OVERLOADED", `the line is full: ${this.pushBytes} bytes of pushes wait`));
  }

  private count(m: Message, by: 1 | -1): void {
    if (m.push) this.pushBytes += by * m.size;
    else this.calls += by;
  }

  /** Takes a message out, wherever it stands, and lets in what waits for room. */
  remove(m: Message, current: Outlet | undefined): void {
    if (m.place === "room") {
      this.room.delete(m);
    } else if (m.place === "line" || m.place === "aside") {
      this.line.delete(m);
      if (m.place === "aside") {
        current?.blocked.delete(m);
        for (const held of current?.aside.values() ?? []) held.delete(m);
      }
      this.count(m, -1);
    }
    m.place = "done";
    for (const waiting of this.room) {
      if (this.pushBytes >= this.maxPushBytes) break;
      this.room.delete(waiting);
      this.stand(waiting);
      if (current) waiting.accept();
    }
  }

  /** Puts messages back where their order belongs; counted says that they were counted all the time. */
  putBack(back: Message[], counted: boolean): void {
    if (back.length === 0) return;
    this.line = new Set([...back, ...this.line].sort((a, b) => a.order - b.order));
    for (const m of back) {
      m.place = "line";
      if (!counted) this.count(m, 1);
    }
  }

  /** The pushes that stand in the line of a link that opened are accepted. */
  accept(): void {
    for (const m of this.line) if (m.push) m.accept();
  }

  /** Fails what waits, where which says so. */
  fail(t: Trouble, current: Outlet | undefined, which: (m: Message) => boolean): void {
    for (const m of [...this.line, ...this.room].filter(which)) this.lose(m, t, current);
  }

  private lose(m: Message, t: Trouble, current: Outlet | undefined): void {
    if (m.push && m.settled) this.pushesLost++;
    this.remove(m, current);
    m.fail(t);
  }

  /** Finds the message that may leave next on a link, and sets aside those that may not. */
  next(o: Outlet): Message | undefined {
    for (;;) {
      const [blocked] = o.blocked;
      if (blocked && o.bulk.mayBegin(blocked.payload.length)) return !blocked.push && o.full ? undefined : blocked;
      const [m] = this.line;
      if (!m || (!m.push && o.full)) return undefined;
      const refused = o.refuses(m);
      const held = o.aside.get(m.addressee);
      if (refused) {
        this.lose(m, refused, o);
      } else if (held) {
        this.setAside(m, held);
      } else if (m.large && (o.blocked.size > 0 || !o.bulk.mayBegin(m.payload.length))) {
        this.setAside(m, o.blocked);
        if (m.push) o.holdBack(m);
      } else {
        return m;
      }
    }
  }

  private setAside(m: Message, where: Set<Message>): void {
    this.line.delete(m);
    m.place = "aside";
    where.add(m);
  }
}
