package io.github.meshnode.client;

import com.google.protobuf.UnsafeByteOperations;
import io.grpc.Status;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import mesh.v1.Cluster.Frame;
import mesh.v1.Cluster.Header;
import mesh.v1.Cluster.Request;

/** One message on its way out. It has exactly one outcome. Guarded by its link's lock. */
final class Message extends Bulk.Parcel {
  /** Where it stands. */
  enum Place {
    /** Before the line, for want of room. */
    ROOM,
    /** In the line. */
    LINE,
    /** Set aside on a link. */
    ASIDE,
    /** Sent, and not answered. */
    SENT,
    /** Over. */
    DONE
  }

  final CompletableFuture<Reply> future = new CompletableFuture<>();
  final Target target;
  final String method;
  final boolean push;
  final boolean noWait;
  final boolean waitUp;
  private final List<Header> headers;
  private final String traceTag;
  private final long due; // System.nanoTime, where timed
  private final boolean timed;
  private final Executor executor;

  Place place = Place.DONE;
  long order;
  boolean settled;
  boolean gone; // its caller left after it was sent
  Runnable onSettled = () -> {};

  // Of the link on which it was sent.
  Outlet out;
  Joiner join;
  mesh.v1.Cluster.Reply begun; // the first frame of a large reply

  Message(Target target, String method, byte[] payload, List<Header> headers, SendOptions o, boolean push, Executor executor) {
    super(payload);
    this.target = target;
    this.method = method;
    this.push = push;
    this.noWait = o.noWait();
    this.waitUp = o.waitUp();
    this.headers = headers;
    this.traceTag = o.traceTag();
    this.timed = o.timeout() != null;
    this.due = timed ? System.nanoTime() + o.timeoutNanos() : 0;
    this.executor = executor;
  }

  boolean isLarge() {
    return payload.length > Joiner.PART_BYTES;
  }

  /** At least the length of its first frame. */
  int bound() {
    return Math.min(payload.length, Joiner.PART_BYTES)
        + 4 * (target.text().length() + method.length() + traceTag.length())
        + Headers.bytes(headers)
        + 96;
  }

  /** What it counts against the bound of waiting pushes. */
  long size() {
    return payload.length + Headers.bytes(headers) + 256L;
  }

  /** Its first frame. */
  Frame first() {
    Request.Builder r = Request.newBuilder().setMethod(method).setPush(push).addAllHeaders(headers).setTraceTag(traceTag);
    if (target.name() != null) {
      r.setName(target.name());
    } else {
      r.setHandle(target.handle());
    }
    if (timed) {
      r.setTimeLeftUs(Math.max(1, (due - System.nanoTime()) / 1000));
    }
    if (isLarge()) {
      r.setTotalSize(payload.length);
    }
    r.setPayload(UnsafeByteOperations.unsafeWrap(payload, 0, Math.min(payload.length, Joiner.PART_BYTES)));
    return Frame.newBuilder().setSession(session).setRequest(r).build();
  }

  boolean timed() {
    return timed;
  }

  long nanosLeft() {
    return Math.max(0, due - System.nanoTime());
  }

  void succeed(Reply reply) {
    if (settle()) {
      executor.execute(() -> future.complete(reply));
    }
  }

  void fail(Trouble t) {
    if (settle()) {
      executor.execute(() -> future.completeExceptionally(new MeshException(t, target.text(), method)));
    }
  }

  /** The handler's "deadline exceeded" that comes after the deadline itself is the latter, whichever this process sees first. */
  Trouble tooLate(Trouble t) {
    if (!timed || t.condition() != null || t.code() != Status.Code.DEADLINE_EXCEEDED || nanosLeft() > 0) {
      return t;
    }
    return Trouble.of(Verdict.MAYBE_EXECUTED, Condition.DEADLINE_EXCEEDED, "its deadline passed after it was sent");
  }

  private boolean settle() {
    if (settled) {
      return false;
    }
    settled = true;
    onSettled.run();
    return true;
  }

  /** What is wrong with it, by itself; null where nothing is. */
  Trouble wrong() {
    String what = null;
    if (target.wrong() != null) {
      return target.wrong();
    }
    if (method.getBytes(StandardCharsets.UTF_8).length > 1024) {
      what = "the method is longer than 1024 bytes";
    } else if (Headers.bytes(headers) + traceTag.getBytes(StandardCharsets.UTF_8).length > Headers.MAX_BYTES) {
      what = "the headers are longer than " + Headers.MAX_BYTES + " bytes";
    }
    return what == null ? null : Trouble.of(Verdict.NOT_SENT, Condition.INVALID_REQUEST, "invalid request: " + what);
  }
}
