package io.github.meshnode.client;

import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import io.grpc.Context;
import io.grpc.MethodDescriptor;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.ForkJoinPool;
import mesh.v1.Process.QueryRequest;
import mesh.v1.Process.QueryResponse;

/**
 * A link to one node: calls and pushes go up, answers come down. It is opened by the first message, and again, after a
 * break, by the next one. Messages to one target leave in the order in which they were made.
 *
 * <p>A message that is made while the link is not open waits in its line. The bytes of a payload are copied when it is
 * made; a reply's belong to the caller. A Link is safe for concurrent use. Futures complete on its executor, and with a
 * {@link MeshException} where they fail.
 */
public final class Link implements AutoCloseable {
  private final Builder o;
  private final LinkCore core;

  private Link(Builder o) {
    this.o = o;
    this.core = new LinkCore(o);
  }

  /**
   * Begins a link to a node.
   *
   * @param address where it listens: host:port, or [IPv6]:port
   */
  public static Builder builder(String address) {
    return new Builder(address);
  }

  /** Sets up a {@link Link}. */
  public static final class Builder extends Options<Builder> {
    String node = "";
    int lineCalls = 16384;
    long linePushBytes = 4 << 20;
    Duration sendWait = Duration.ofSeconds(1);

    private Builder(String address) {
      super(address);
    }

    @Override
    Builder self() {
      return this;
    }

    /** The node's name as this process calls it, for its log and for errors. Default none. */
    public Builder node(String name) {
      if (!name.matches("(?!__)[A-Za-z0-9_-]{1,255}")) {
        throw new IllegalArgumentException(
            "node \"" + name + "\": a node name has 1 to 255 letters, digits, '_' and '-', and does not begin with \"__\"");
      }
      node = name;
      return this;
    }

    /** How many calls may wait to be sent. Default 16384. */
    public Builder lineCalls(int n) {
      lineCalls = (int) within(n, 1, Integer.MAX_VALUE, "lineCalls");
      return this;
    }

    /** How many bytes of pushes may wait to be sent. Default 4194304. */
    public Builder linePushBytes(long n) {
      linePushBytes = within(n, 1, Long.MAX_VALUE, "linePushBytes");
      return this;
    }

    /** How long a push waits for room in the line. Default 1 s. */
    public Builder sendWait(Duration d) {
      sendWait = positive(d, "sendWait");
      return this;
    }

    /**
     * Completes the futures. It must not run what it is given in the thread that gives it. Default {@link
     * ForkJoinPool#commonPool}.
     */
    public Builder executor(Executor e) {
      executor = Objects.requireNonNull(e);
      return this;
    }

    /** Makes the link. Nothing is dialled yet. */
    public Link build() {
      check();
      return new Link(this);
    }
  }

  /** The process at the other end; null while the link is not open. */
  public Peer peer() {
    return core.peer();
  }

  /** How many pushes were accepted and certainly did not run: a goaway did not take them, or the link never opened again. */
  public long pushesLost() {
    return core.pushesLost();
  }

  /** As {@link #call(String, String, byte[], SendOptions)}, without options. */
  public CompletableFuture<Reply> call(String target, String method, byte[] payload) {
    return call(target, method, payload, SendOptions.DEFAULT);
  }

  /**
   * Calls a service. The future completes with its one reply, or with a {@link MeshException} whose verdict says whether
   * it may have been executed. Cancelling the future gives the call up, and its handler is told; cancel the {@link
   * Context} of the options instead where the verdict is wanted.
   *
   * @param target "@name", ".name", or a handle: ":" and 16 hex digits
   * @param method free text for plain handlers, at most 1 KiB; a full gRPC method for stubs
   * @param payload at most what the node takes, 64 MiB by default
   */
  public CompletableFuture<Reply> call(String target, String method, byte[] payload, SendOptions options) {
    return send(Target.of(target), method, payload, options, false);
  }

  /** As {@link #push(String, String, byte[], SendOptions)}, without options. */
  public CompletableFuture<Void> push(String target, String method, byte[] payload) {
    return push(target, method, payload, SendOptions.DEFAULT);
  }

  /**
   * Sends a one-way message. The future completes when it stands in the line of an open link; what happens to it later
   * is told to nobody ({@link #pushesLost} counts what a goaway loses). Where the line is full it waits, at most the
   * builder's sendWait; then it fails: overloaded, not sent.
   */
  public CompletableFuture<Void> push(String target, String method, byte[] payload, SendOptions options) {
    return send(Target.of(target), method, payload, options, true).thenApply(none -> null);
  }

  /**
   * Calls a unary method of generated code: {@code link.invoke("@sdb", SimpleDBServiceGrpc.getGetMethod(), request,
   * SendOptions.DEFAULT)}.
   */
  public <Q, R> CompletableFuture<R> invoke(String target, MethodDescriptor<Q, R> method, Q request, SendOptions options) {
    if (method.getType() != MethodDescriptor.MethodType.UNARY) {
      throw new IllegalArgumentException(method.getFullMethodName() + " is a streaming method: call it through a gateway");
    }
    byte[] payload;
    try (InputStream in = method.streamRequest(request)) {
      payload = in.readAllBytes();
    } catch (IOException e) {
      throw new IllegalArgumentException("the request cannot be encoded", e);
    }
    return call(target, "/" + method.getFullMethodName(), payload, options)
        .thenApply(reply -> method.parseResponse(new java.io.ByteArrayInputStream(reply.payload())));
  }

  /** Asks for the handle behind a name ("@sdb"), as a target. It stays valid for this life of the process. */
  public CompletableFuture<String> query(String name, SendOptions options) {
    Target named = Target.of(name);
    if (named.wrong() != null || named.name() == null) {
      Trouble wrong = named.wrong() != null ? named.wrong() : Trouble.of(Verdict.NOT_SENT, Condition.INVALID_TARGET, "invalid target: a handle has no handle");
      return CompletableFuture.failedFuture(new MeshException(wrong, name, "Query"));
    }
    byte[] payload = QueryRequest.newBuilder().setName(name).build().toByteArray();
    return send(Target.process(name), "Query", payload, options, false).thenApply(reply -> handleOf(reply, name));
  }

  private static String handleOf(Reply reply, String name) {
    try {
      return String.format(":%016x", QueryResponse.parseFrom(ByteString.copyFrom(reply.payload())).getHandle());
    } catch (InvalidProtocolBufferException e) {
      Trouble t = Trouble.of(Verdict.HANDLER_FAILED, Condition.INVALID_REQUEST, "the answer is no QueryResponse: " + e.getMessage());
      throw new MeshException(t, name, "Query");
    }
  }

  /** Opens the link, if it is not open, and completes when it is. */
  public CompletableFuture<Peer> connect(SendOptions options) {
    return core.connect(options);
  }

  private CompletableFuture<Reply> send(Target target, String method, byte[] payload, SendOptions options, boolean push) {
    return core.send(target, Objects.requireNonNull(method), payload.clone(), options, push);
  }

  /** As {@link #closeAsync(Duration)} with the builder's drain time. */
  public CompletableFuture<Void> closeAsync() {
    return closeAsync(o.drainTime);
  }

  /**
   * Ends the link in good order: what stands in the line is sent, calls get their answers, pushes are placed. What is
   * not done after the drain time is cut. The future never fails. What is made after it fails: not sent, CLOSED. Safe to
   * call twice.
   */
  public CompletableFuture<Void> closeAsync(Duration drainTime) {
    return core.close(drainTime);
  }

  /** As {@link #closeAsync()}, and waits for it. */
  @Override
  public void close() {
    closeAsync().join();
  }

  /** The address of the node. */
  @Override
  public String toString() {
    return "Link[" + o.node + " " + o.address + "]";
  }

  /** A text as a payload. */
  public static byte[] utf8(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }
}
