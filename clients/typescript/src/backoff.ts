/** The pauses between failed tries: exponential, with jitter. */
export class Backoff {
  private attempts = 0;

  constructor(
    private readonly minMs: number,
    private readonly maxMs: number,
  ) {}

  /** The pause after one more failure, in ms. */
  next(): number {
    const most = Math.min(this.minMs * 2 ** Math.min(this.attempts++, 20), this.maxMs);
    return Math.max(most / 2 + (Math.random() * most) / 2, this.minMs);
  }

  reset(): void {
    this.attempts = 0;
  }
}
