package io.github.meshnode.client;

/**
 * Options of a name. Immutable: each with-method returns a changed copy.
 *
 * @param shared several programs may serve the name
 * @param concurrency how many of its handlers run at once
 * @param waitUp waits on when a try to open the stream fails
 */
public record RegisterOptions(boolean shared, int concurrency, boolean waitUp) {
  /** Not shared, no bound of its own, not waiting. */
  public static final RegisterOptions DEFAULT = new RegisterOptions(false, Integer.MAX_VALUE, false);

  /** Several programs may serve the name, if all of them say so: each request goes to one of them. */
  public RegisterOptions withShared() {
    return new RegisterOptions(true, concurrency, waitUp);
  }

  /** How many of its handlers run at once; the others wait in the order in which they came. 1: one at a time. */
  public RegisterOptions withConcurrency(int n) {
    return new RegisterOptions(shared, (int) Options.within(n, 1, Integer.MAX_VALUE, "concurrency"), waitUp);
  }

  /** Waits on when a try to open the stream fails, rather than fail with it. */
  public RegisterOptions withWaitUp() {
    return new RegisterOptions(shared, concurrency, true);
  }
}
