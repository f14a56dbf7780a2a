package io.github.meshnode.client;

import io.grpc.Context;
import io.grpc.Metadata;
import java.time.Duration;
import java.util.Objects;

/** Options of a single message. Immutable: each with-method returns a changed copy. */
public final class SendOptions {
  /** No deadline, no headers; the current {@link Context} gives it up. */
  public static final SendOptions DEFAULT = new SendOptions(null, null, new Metadata(), "", false, false);

  private final Duration timeout;
  private final Context context;
  private final Metadata headers;
  private final String traceTag;
  private final boolean noWait;
  private final boolean waitUp;

  private SendOptions(Duration timeout, Context context, Metadata headers, String traceTag, boolean noWait, boolean waitUp) {
    this.timeout = timeout;
    this.context = context;
    this.headers = headers;
    this.traceTag = traceTag;
    this.noWait = noWait;
    this.waitUp = waitUp;
  }

  /** Its deadline, from now. The handler knows it. Where the context has an earlier one, that counts. */
  public SendOptions withTimeout(Duration d) {
    if (d.isNegative()) {
      throw new IllegalArgumentException("the timeout is negative");
    }
    return new SendOptions(d, context, headers, traceTag, noWait, waitUp);
  }

  /** Gives the message up when it is cancelled, and the handler is told. Default: the context in which it is made. */
  public SendOptions withContext(Context c) {
    return new SendOptions(timeout, Objects.requireNonNull(c), headers, traceTag, noWait, waitUp);
  }

  /** gRPC metadata for the handler, "traceparent" among them. 8 KiB at most. Not copied before the message is made. */
  public SendOptions withHeaders(Metadata h) {
    return new SendOptions(timeout, context, Objects.requireNonNull(h), traceTag, noWait, waitUp);
  }

  /** A skynet trace tag. */
  public SendOptions withTraceTag(String tag) {
    return new SendOptions(timeout, context, headers, Objects.requireNonNull(tag), noWait, waitUp);
  }

  /** Fails at once while the link pauses after a failed try, rather than wait for the next one. */
  public SendOptions withNoWait() {
    return new SendOptions(timeout, context, headers, traceTag, true, false);
  }

  /** Waits on when a try to open the link fails, rather than fail with it. */
  public SendOptions withWaitUp() {
    return new SendOptions(timeout, context, headers, traceTag, false, true);
  }

  Duration timeout() {
    return timeout;
  }

  /** In nanoseconds; a century is as good as never. */
  long timeoutNanos() {
    return timeout.compareTo(Duration.ofDays(36500)) > 0 ? Duration.ofDays(36500).toNanos() : timeout.toNanos();
  }

  Context context() {
    return context;
  }

  Metadata headers() {
    return headers;
  }

  String traceTag() {
    return traceTag;
  }

  boolean noWait() {
    return noWait;
  }

  boolean waitUp() {
    return waitUp;
  }
}
