package io.github.meshnode.client;

import io.grpc.Context;
import io.grpc.Metadata;
import java.time.Duration;
import java.util.Optional;
import mesh.v1.Cluster;

/** A request as its handler sees it. What is in it belongs to the handler. */
public final class Request {
  private final String name;
  private final byte[] payload;
  private final Cluster.Request frame;
  private final Duration timeLeft;
  private final Context context;
  private final Metadata headers;
  private final Metadata failureHeaders = new Metadata();

  Request(String name, byte[] payload, Cluster.Request frame, Duration timeLeft, Context context) {
    this.name = name;
    this.payload = payload;
    this.frame = frame;
    this.timeLeft = timeLeft;
    this.context = context;
    this.headers = Headers.toMetadata(frame.getHeadersList());
  }

  /** The name for which it came, with its sign. */
  public String name() {
    return name;
  }

  /** Free text, or the full gRPC method. */
  public String method() {
    return frame.getMethod();
  }

  /** The request's bytes. */
  public byte[] payload() {
    return payload;
  }

  /** gRPC metadata of the caller. */
  public Metadata headers() {
    return headers;
  }

  /** A skynet trace tag, or "". */
  public String traceTag() {
    return frame.getTraceTag();
  }

  /** Nobody waits for an answer. */
  public boolean isPush() {
    return frame.getPush();
  }

  /** What was left of its deadline when it came; empty where it has none. */
  public Optional<Duration> timeLeft() {
    return Optional.ofNullable(timeLeft);
  }

  /**
   * Cancelled when nobody waits any more: the caller cancelled, the deadline passed, or the stream ended. The call's
   * place counts until the handler is done.
   */
  public Context context() {
    return context;
  }

  /** What goes to the caller as headers where the handler fails. (A reply has its own.) */
  public Metadata failureHeaders() {
    return failureHeaders;
  }
}
