package io.github.meshnode.client;

import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;

/** The pauses between failed tries: exponential, with jitter. */
final class Backoff {
  private final long minMillis;
  private final long maxMillis;
  private int attempts;

  Backoff(Duration min, Duration max) {
    this.minMillis = min.toMillis();
    this.maxMillis = Math.max(max.toMillis(), minMillis);
  }

  /** The pause after one more failure, in ms. */
  long next() {
    long most = Math.min(minMillis << Math.min(attempts++, 20), maxMillis);
    return Math.max(most / 2 + ThreadLocalRandom.current().nextLong(most / 2 + 1), minMillis);
  }

  void reset() {
    attempts = 0;
  }
}
