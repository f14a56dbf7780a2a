// Large payloads travel in parts: this joins what arrives and cuts what leaves.

/** A payload that is longer travels in parts of this size. */
export const partBytes = 32 << 10;

/** What an unfinished message counts at the least. */
const minUnfinished = 64 << 10;

/** How long a message may wait for its next part. */
export const partTimeoutMs = 30_000;

/** What a large message of n bytes counts against a bound of unfinished bytes. */
export function weight(n: number): number {
  return Math.max(n, minUnfinished);
}

/**
 * Joins a large payload. It holds what has arrived, never what was announced.
 * Its methods throw an Error whose message says which rule a piece broke.
 */
export class Joiner {
  private readonly pieces: Buffer[];
  private have = partBytes;

  constructor(
    first: Buffer,
    readonly total: number,
    public latest: number,
  ) {
    if (first.length !== partBytes || total <= partBytes) {
      throw new Error(`its first frame has ${first.length} bytes of ${total}; it must have ${partBytes} of more`);
    }
    this.pieces = [first];
  }

  /** Adds a part, and returns the payload when it is whole. */
  add(piece: Buffer, now: number): Buffer | undefined {
    const have = this.have + piece.length;
    if (piece.length > partBytes) throw new Error(`a part has ${piece.length} bytes; the most is ${partBytes}`);
    if (have > this.total) throw new Error(`its parts hold more than the ${this.total} bytes that it announced`);
    if (have < this.total && piece.length < partBytes) {
      throw new Error(`a part has ${piece.length} bytes before the last one; it must have ${partBytes}`);
    }
    this.pieces.push(piece);
    this.have = have;
    this.latest = now;
    return have === this.total ? Buffer.concat(this.pieces, have) : undefined;
  }
}

/** A large payload on its way out. */
export interface Parcel {
  session: bigint;
  payload: Buffer;
  offset: number;
}

/** Sends large payloads in turn, within what the receiver takes. */
export class Bulk<T extends Parcel> {
  private begun = 0;
  private readonly turn = new Set<T>();

  constructor(private readonly limit: number) {}

  get empty(): boolean {
    return this.turn.size === 0;
  }

  /** Says whether n more bytes fit beside what has begun. */
  mayBegin(n: number): boolean {
    return this.begun + weight(n) <= this.limit;
  }

  /** Notes that the first piece is about to leave. */
  begin(parcel: T): void {
    parcel.offset = partBytes;
    this.begun += weight(parcel.payload.length);
    this.turn.add(parcel);
  }

  /** Forgets what was not sent of a payload. */
  stop(parcel: T): void {
    if (this.turn.delete(parcel)) this.begun -= weight(parcel.payload.length);
  }

  /** Forgets all payloads of which the condition holds, and says whether there were any. */
  stopWhere(condition: (parcel: T) => boolean): boolean {
    const found = [...this.turn].filter(condition);
    for (const parcel of found) this.stop(parcel);
    return found.length > 0;
  }

  /**
   * Takes the next part of the payload whose turn it is; the last one is
   * marked. Undefined where there is none.
   */
  next(): { parcel: T; part: Buffer; last: boolean } | undefined {
    for (const parcel of this.turn) {
      const end = Math.min(parcel.offset + partBytes, parcel.payload.length);
      const part = parcel.payload.subarray(parcel.offset, end);
      const last = end === parcel.payload.length;
      parcel.offset = end;
      this.turn.delete(parcel);
      if (last) this.begun -= weight(parcel.payload.length);
      else this.turn.add(parcel);
      return { parcel, part, last };
    }
    return undefined;
  }
}
