import { type Trouble, trouble } from "./errors.js";
import type { Frame, Reply as ReplyFrame } from "./gen/mesh/v1/cluster.js";
import type { Peer } from "./hello.js";
import { badReply, failureOf, type Message, replyOf } from "./message.js";
import { Bulk, Joiner, type Parcel, partTimeoutMs, weight } from "./parts.js";
import type { Batch, Wire } from "./wire.js";

/** What a part takes in a batch at the most. */
export const partRoom = (32 << 10) + 32;

/** How much of large payloads goes into one batch where little else is there. */
const roundBytes = 64 << 10;

/** What this process takes of replies. */
export interface ReplyLimits {
  maxMessageBytes: number;
  maxUnfinishedBytes: number;
}

/** Adds a round of parts to a batch and tells of each payload whose last part that was. */
export function addParts<T extends Parcel>(bulk: Bulk<T>, batch: Batch, done: (parcel: T) => void): void {
  const first = new Set<T>();
  while (!bulk.empty && batch.fits(partRoom)) {
    const next = bulk.next()!;
    batch.add(next.parcel.session, { $case: "part", value: { payload: next.part } });
    if (next.last) done(next.parcel);
    if (first.has(next.parcel) && batch.size >= roundBytes) return;
    first.add(next.parcel);
  }
}

/** The state of one open link: what was sent on it and has no answer yet. */
export class Outlet {
  session = 0; // the last one given
  readonly flights = new Map<number, Message>(); // calls that were sent and not answered, left ones too
  readonly bulk: Bulk<Message>;
  readonly blocked = new Set<Message>(); // large messages that may not begin yet
  readonly aside = new Map<string, Set<Message>>(); // what a large push holds back, by addressee
  readonly cancels: number[] = [];
  leaving = false; // the node said goaway
  ending = false; // half-close when nothing is in flight
  dead = false;
  readonly openedAt = performance.now();
  private joining = 0; // weight of the large replies that arrive
  private checked = this.openedAt;

  constructor(
    readonly wire: Wire,
    readonly peer: Peer,
    private readonly own: ReplyLimits,
  ) {
    this.bulk = new Bulk(peer.limits.unfinished);
  }

  /** Says why a message can never leave on this link. */
  refuses(m: Message): Trouble | undefined {
    const n = m.payload.length;
    const most = m.large ? Math.min(this.peer.limits.message, this.peer.limits.unfinished) : this.peer.limits.message;
    if (n <= most && (!m.large || weight(n) <= this.peer.limits.unfinished)) return undefined;
    return trouble("not sent", "TOO_LARGE", `too large: ${n} bytes; the node takes at most ${most}`);
  }

  /** Says that the peer takes no more calls for now. */
  get full(): boolean {
    return this.flights.size >= this.peer.limits.calls;
  }

  /** Says that nothing is in flight and nothing waits to be sent. */
  get idle(): boolean {
    return this.flights.size === 0 && this.bulk.empty && this.cancels.length === 0;
  }

  /** Gives the message its session. */
  begin(m: Message): void {
    m.session = BigInt(++this.session);
    m.out = this;
    m.place = m.push && !m.large ? "done" : "sent";
    if (!m.push) this.flights.set(this.session, m);
    else if (m.large) this.holdBack(m);
    if (m.large) this.bulk.begin(m);
  }

  /** Makes later messages to the addressee of a large push wait for it. */
  holdBack(push: Message): void {
    if (!this.aside.has(push.addressee)) this.aside.set(push.addressee, new Set());
  }

  fillCancels(batch: Batch): void {
    while (this.cancels.length > 0 && batch.fits(32)) batch.add(this.cancels.shift()!, { $case: "cancel", value: {} });
  }

  /** Nobody waits for the call any more. Its place is free when it is answered. */
  cancel(m: Message): void {
    m.gone = true;
    this.bulk.stop(m);
    this.cancels.push(Number(m.session));
    this.wire.wake();
  }

  /** Forgets the call. */
  drop(m: Message): void {
    this.flights.delete(Number(m.session));
    this.bulk.stop(m);
    this.unjoin(m);
  }

  /** Takes a reply, failure or part. It returns the call that it ended. */
  answer(frame: Frame): Message | undefined {
    const session = Number(frame.session);
    const m = this.flights.get(session);
    if (!m || frame.session !== m.session) return undefined; // late, or nobody's
    let ended = true;
    try {
      ended = this.taken(m, frame.body!);
    } catch (err) {
      m.fail(badReply(err));
      this.cancels.push(session); // it may stop sending that reply
    }
    if (!ended) return undefined;
    this.drop(m);
    m.place = "done";
    return m;
  }

  /** Says whether that ended the call. Throws where it breaks the rules for parts. */
  private taken(m: Message, body: NonNullable<Frame["body"]>): boolean {
    const now = performance.now();
    switch (body.$case) {
      case "failure":
        m.fail(m.tooLate(failureOf(body.value), now));
        return true;
      case "part": {
        if (!m.join) return false; // nobody's
        const whole = m.join.add(body.value.payload, now);
        if (whole) m.succeed(replyOf(m.begun!, whole));
        return whole !== undefined;
      }
      case "reply":
        if (m.join) throw new Error("it has two beginnings");
        return this.reply(m, body.value, now);
      default:
        return false;
    }
  }

  private reply(m: Message, reply: ReplyFrame, now: number): boolean {
    const total = Number(reply.totalSize);
    if (total === 0 && reply.payload.length <= this.own.maxMessageBytes) {
      m.succeed(replyOf(reply, reply.payload));
      return true;
    }
    const join = total === 0 ? undefined : new Joiner(reply.payload, total, now);
    const room = Math.min(this.own.maxMessageBytes, this.own.maxUnfinishedBytes - this.joining);
    if (!join || total > this.own.maxMessageBytes || this.joining + weight(total) > this.own.maxUnfinishedBytes) {
      m.fail(trouble("handler failed", "REPLY_TOO_LARGE", `reply too large: ${total || reply.payload.length} bytes; this process takes ${room} now`));
      this.cancels.push(Number(m.session));
      return true;
    }
    m.join = join;
    m.begun = reply;
    this.joining += weight(total);
    this.bulk.stop(m); // a reply stops the rest of its request
    return false;
  }

  private unjoin(m: Message): void {
    if (m.join) this.joining -= weight(m.join.total);
    m.join = undefined;
  }

  /** Fails the calls whose large reply has stopped arriving; at most once a second. */
  overdue(): void {
    const now = performance.now();
    if (now - this.checked < 1000) return;
    this.checked = now;
    for (const m of this.flights.values()) {
      if (!m.join || now - m.join.latest < partTimeoutMs) continue;
      this.unjoin(m);
      m.fail(badReply(new Error(`no part for ${partTimeoutMs / 1000} s`)));
      this.cancel(m);
    }
  }

  /** Adds the parts that may leave; done is told of each large push that has left. */
  fillParts(batch: Batch, done: (push: Message) => void): void {
    addParts(this.bulk, batch, (m) => {
      if (!m.push) return;
      m.place = "done";
      done(m);
    });
  }
}
