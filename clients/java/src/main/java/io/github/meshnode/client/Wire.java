package io.github.meshnode.client;

import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.protobuf.ProtoUtils;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import mesh.v1.Cluster.Frame;
import mesh.v1.Cluster.Heartbeat;
import mesh.v1.Cluster.LinkRequest;
import mesh.v1.Cluster.LinkResponse;
import mesh.v1.ClusterServiceGrpc;

/**
 * One gRPC stream: a writer that turns what is ready into one message, and a pulse that finds a dead peer. It ends
 * once; the first cause wins. Everything in it is guarded by its owner's lock; the role's methods are called with it.
 */
final class Wire {
  /** What a wire carries for: one life of a Link or of a Serve. */
  interface Role {
    /** The peer has accepted. */
    void opened(Peer peer);

    /** A frame arrived. What it throws ends the wire. */
    void frame(Frame frame) throws ProtocolException;

    /** Adds what may be sent now; true: nothing more will come, half-close. */
    boolean fill(Batch batch);

    /** It is over, once. A null cause: it ended in good order. */
    void ended(Throwable cause);
  }

  private static final long SEND_TIMEOUT_NANOS = TimeUnit.SECONDS.toNanos(30);
  private static final long LATE_NANOS = TimeUnit.MILLISECONDS.toNanos(500);

  // The messages of Serve have the same fields as those of Link.
  static final MethodDescriptor<LinkRequest, LinkResponse> LINK = method(ClusterServiceGrpc.getLinkMethod().getFullMethodName());
  static final MethodDescriptor<LinkRequest, LinkResponse> SERVE = method(ClusterServiceGrpc.getServeMethod().getFullMethodName());

  private final Object lock;
  private final Role role;
  private final ScheduledExecutorService timer;
  private final ManagedChannel channel;
  private final ClientCall<LinkRequest, LinkResponse> call;
  private final LinkRequest hello;
  private final Metadata metadata;
  private final long connectMillis;
  private final long intervalNanos;

  private Peer peer;
  private Future<?> alarm;
  private long expected; // when the alarm should run
  private boolean over;
  private boolean halfClosed;
  private long blocked; // since when gRPC takes nothing, 0: it does
  private long sent;
  private long received;
  private boolean beat;
  private boolean stopped;
  private boolean peerStopped;

  /** Makes a stream, which {@link #start} opens. */
  Wire(MethodDescriptor<LinkRequest, LinkResponse> method, Options<?> o, String node, Object lock, ScheduledExecutorService timer, Role role) {
    this.lock = lock;
    this.role = role;
    this.timer = timer;
    this.intervalNanos = o.heartbeat.toNanos();
    this.metadata = o.metadata(); // may fail: before there is anything to close
    this.channel = o.newChannel().build();
    this.call = channel.newCall(method, CallOptions.DEFAULT);
    this.hello = LinkRequest.newBuilder().addFrames(Frame.newBuilder().setHello(o.hello(node))).build();
    this.connectMillis = o.connectTimeout.toMillis();
  }

  /** Opens the stream. It may have ended when this returns. */
  void start() {
    alarm = timer.schedule(() -> locked(() -> finish(new Exception("no answer within " + connectMillis + " ms"))), connectMillis, TimeUnit.MILLISECONDS);
    call.start(new Listener(), metadata);
    if (!over) {
      call.sendMessage(hello);
    }
    if (!over) {
      call.request(1);
    }
  }

  private static MethodDescriptor<LinkRequest, LinkResponse> method(String name) {
    return MethodDescriptor.<LinkRequest, LinkResponse>newBuilder()
        .setType(MethodDescriptor.MethodType.BIDI_STREAMING)
        .setFullMethodName(name)
        .setRequestMarshaller(ProtoUtils.marshaller(LinkRequest.getDefaultInstance()))
        .setResponseMarshaller(ProtoUtils.marshaller(LinkResponse.getDefaultInstance()))
        .build();
  }

  /** The other end; null until it has accepted. */
  Peer peer() {
    return peer;
  }

  /** Sends what is ready, as far as gRPC takes it. */
  void wake() {
    if (over || halfClosed || peer == null) {
      return;
    }
    while (!over && call.isReady()) {
      blocked = 0;
      Batch batch = new Batch(peer.maxBatchBytes());
      if (beat) {
        beat = false;
        batch.add(Frame.newBuilder().setHeartbeat(Heartbeat.newBuilder().setReadingStopped(stopped)).build());
      }
      boolean done = role.fill(batch);
      if (batch.isEmpty()) {
        if (done) {
          halfClosed = true;
          call.halfClose();
        }
        return;
      }
      call.sendMessage(batch.build());
      sent = System.nanoTime();
    }
    if (!over && blocked == 0) {
      blocked = System.nanoTime();
    }
  }

  /** Stops reading until resume; the peer is told. */
  void stop() {
    stopped = beat = true;
    wake();
  }

  /** Reads again. */
  void resume() {
    stopped = false;
    beat = true;
    received = System.nanoTime();
    call.request(1);
    wake();
  }

  /** Ends the wire at once. */
  void end(Throwable cause) {
    finish(cause);
  }

  private void locked(Runnable r) {
    synchronized (lock) {
      r.run();
    }
  }

  private final class Listener extends ClientCall.Listener<LinkResponse> {
    @Override
    public void onMessage(LinkResponse message) {
      locked(() -> take(message));
    }

    @Override
    public void onReady() {
      locked(Wire.this::wake);
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      locked(() -> closed(status));
    }
  }

  private void take(LinkResponse message) {
    received = System.nanoTime();
    try {
      for (Frame frame : message.getFramesList()) {
        if (over) {
          return;
        }
        one(frame);
      }
    } catch (ProtocolException e) {
      finish(e);
    } catch (RuntimeException e) {
      finish(new IllegalStateException("internal error: " + e, e)); // ours: it ends this link and nothing else
    }
    if (!stopped && !over) {
      call.request(1);
    }
  }

  private void one(Frame frame) throws ProtocolException {
    if (peer == null) {
      if (!frame.hasHello()) {
        throw new ProtocolException("the first frame is not a hello");
      }
      accepted(Peer.of(frame.getHello()));
    } else if (frame.hasHello()) {
      throw new ProtocolException("a second hello");
    } else if (frame.hasHeartbeat()) {
      boolean stop = frame.getHeartbeat().getReadingStopped();
      if (peerStopped && !stop && blocked != 0) {
        blocked = System.nanoTime(); // it has its time anew
      }
      peerStopped = stop;
    } else {
      role.frame(frame);
    }
  }

  private void accepted(Peer p) {
    peer = p;
    alarm.cancel(false);
    sent = System.nanoTime();
    schedule(sent + intervalNanos);
    role.opened(p);
    wake();
  }

  private void schedule(long due) {
    expected = due;
    alarm = timer.schedule(() -> locked(this::tick), Math.max(due - System.nanoTime(), 1_000_000), TimeUnit.NANOSECONDS);
  }

  /** The wire's only timer: a heartbeat where one is due, the end where the peer is silent. */
  private void tick() {
    if (over) {
      return;
    }
    long now = System.nanoTime();
    if (now - expected > LATE_NANOS) { // this process was held up: what arrived is read first
      schedule(now + LATE_NANOS / 10);
      return;
    }
    if (blocked != 0 && !peerStopped && now - blocked >= SEND_TIMEOUT_NANOS) {
      finish(new Exception("slow consumer: a message could not be sent for 30 s and the peer did not say that it stopped reading"));
      return;
    }
    long due = now + intervalNanos;
    if (!stopped) {
      long quiet = received + peer.silence().toNanos();
      if (now - quiet >= 0) {
        finish(new Exception("nothing arrived for too long: the peer is dead or cut off"));
        return;
      }
      due = due - quiet > 0 ? quiet : due;
    }
    if (now - (sent + intervalNanos) >= 0) {
      beat = true;
      wake();
    } else {
      due = due - (sent + intervalNanos) > 0 ? sent + intervalNanos : due;
    }
    if (!over) {
      schedule(due);
    }
  }

  private void closed(Status status) {
    if (!status.isOk()) {
      finish(new Exception(text(status), status.asException()));
    } else if (peer == null) {
      finish(new Exception("the node ended the link before its hello"));
    } else {
      finish(null);
    }
  }

  private static String text(Status status) {
    String text = status.getDescription() == null ? status.getCode().toString() : status.getDescription();
    Throwable cause = status.getCause();
    return cause == null || cause.getMessage() == null ? text : text + ": " + cause.getMessage();
  }

  private void finish(Throwable cause) {
    if (over) {
      return;
    }
    over = true;
    alarm.cancel(false);
    if (cause != null) {
      call.cancel(cause.getMessage(), cause);
      channel.shutdownNow();
    } else {
      channel.shutdown();
    }
    role.ended(cause);
  }
}
