package io.github.meshnode.client;

import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import mesh.v1.Cluster.Failure;
import mesh.v1.Cluster.Frame;

/**
 * Answers requests for names in the mesh, for a program that cannot listen: it opens a stream to a node, registers names
 * there, and answers what comes down. While it has names it keeps the stream open: after a break it opens another by
 * itself, with growing pauses, and registers its names again. A Serve is safe for concurrent use.
 */
public final class Serve implements AutoCloseable {
  final Object lock = new Object();
  final Builder o;
  final Executor executor;
  final Timer timer = new Timer();

  private final ExecutorService ownExecutor; // null where the caller gave one
  private final Backoff backoff;

  // Guarded by lock.
  private final Map<String, Registration> names = new LinkedHashMap<>();
  private Map<Long, Order> orders = new HashMap<>();
  private Wire wire; // also while it is dialled
  private Inlet inlet; // where it is open
  private boolean stopped; // reading
  private boolean paused;
  private Future<?> pause;
  private long session; // of register and unregister
  private long heldBytes; // of requests that wait or run
  private int heldPushes;
  private CompletableFuture<Void> closing;
  private boolean ended;

  private Serve(Builder o) {
    this.o = o;
    this.ownExecutor = o.executor == null ? newPool() : null;
    this.executor = o.executor == null ? ownExecutor : o.executor;
    this.backoff = new Backoff(o.backoffMin, o.backoffMax);
  }

  private static ExecutorService newPool() {
    AtomicInteger n = new AtomicInteger();
    return Executors.newCachedThreadPool(
        r -> {
          Thread t = new Thread(r, "meshnode-serve-" + n.incrementAndGet());
          t.setDaemon(true);
          return t;
        });
  }

  /**
   * Begins a Serve at a node.
   *
   * @param address where it listens: host:port, or [IPv6]:port
   */
  public static Builder builder(String address) {
    return new Builder(address);
  }

  /** Sets up a {@link Serve}. */
  public static final class Builder extends Options<Builder> {
    private int maxPushes = 16384;
    private long maxQueueBytes = 128 << 20;
    private Consumer<Throwable> onError = Throwable::printStackTrace;

    private Builder(String address) {
      super(address);
    }

    @Override
    Builder self() {
      return this;
    }

    /** How many calls this program takes at once. The node keeps or refuses the rest. Default 16384. */
    public Builder maxCalls(int n) {
      maxCalls = (int) within(n, 1, Integer.MAX_VALUE, "maxCalls");
      return this;
    }

    /** How many pushes may wait and run; beyond it the stream is not read. Default 16384. */
    public Builder maxPushes(int n) {
      maxPushes = (int) within(n, 1, Integer.MAX_VALUE, "maxPushes");
      return this;
    }

    /**
     * How many bytes of requests may wait and run: calls beyond it are refused (overloaded), pushes stop the reading.
     * Default 134217728.
     */
    public Builder maxQueueBytes(long n) {
      maxQueueBytes = within(n, 1, Long.MAX_VALUE, "maxQueueBytes");
      return this;
    }

    /**
     * Runs the handlers. It must not run what it is given in the thread that gives it. Default: a thread for each that
     * runs, kept for a minute.
     */
    public Builder executor(Executor e) {
      executor = Objects.requireNonNull(e);
      return this;
    }

    /**
     * Is told what went wrong here: a handler that failed with what is no status, or a name that could not be registered
     * again on a new stream. Default: the stack trace on standard error.
     */
    public Builder onError(Consumer<Throwable> listener) {
      onError = Objects.requireNonNull(listener);
      return this;
    }

    /** Makes the Serve. Nothing is dialled before the first name is registered. */
    public Serve build() {
      check();
      return new Serve(this);
    }
  }

  /** Options of a name. Immutable: each with-method returns a changed copy. */
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

  /** One name, its handler, and its queue. */
  private final class Registration {
    final String name;
    final Handler handler;
    final RegisterOptions options;
    final CompletableFuture<String> future = new CompletableFuture<>();
    final Deque<Task> queue = new ArrayDeque<>();
    int running;
    boolean confirmed; // on the present stream
    boolean everConfirmed;
    Future<?> retry;

    Registration(String name, Handler handler, RegisterOptions options) {
      this.name = name;
      this.handler = handler;
      this.options = options;
    }

    void fail(Trouble t) {
      execute(() -> future.completeExceptionally(new MeshException(t, name, "")));
    }

    /** Starts what may run. */
    void next() {
      while (!ended && !queue.isEmpty() && running < options.concurrency()) {
        Task task = queue.remove();
        running++;
        executor.execute(() -> task.run(handler, Serve.this::panicked).whenComplete((none, err) -> over(task)));
      }
    }

    private void over(Task task) {
      synchronized (lock) {
        running--;
        done(task);
        next();
      }
    }
  }

  /** A register or unregister that waits for its answer. */
  private interface Order {
    /** A null failure: it was done. Not called where the stream breaks. */
    void answered(long handle, Failure failure);

    /** The stream broke. */
    default void broken() {}
  }

  /** The process at the other end; null while the stream is not open. */
  public Peer peer() {
    synchronized (lock) {
      return inlet == null ? null : inlet.peer;
    }
  }

  /** As {@link #register(String, Handler, RegisterOptions)} with its defaults. */
  public CompletableFuture<String> register(String name, Handler handler) {
    return register(name, handler, RegisterOptions.DEFAULT);
  }

  /**
   * Offers a name ("@model"; without a sign it is taken as "@"). The future completes with its handle, as a target of
   * calls, when the node has it; from then on the handler gets the requests for it. It fails with a {@link
   * MeshException}: rejected where the node refuses it (the name is taken), not sent where the node cannot be reached.
   */
  public CompletableFuture<String> register(String name, Handler handler, RegisterOptions options) {
    Registration r = new Registration(withSign(name), Objects.requireNonNull(handler), options);
    synchronized (lock) {
      Trouble refused = refuses(r.name);
      if (refused != null) {
        r.fail(refused);
        return r.future;
      }
      names.put(r.name, r);
      if (inlet != null) {
        enrol(r);
      } else {
        kick();
      }
    }
    return r.future;
  }

  private static String withSign(String name) {
    return name.startsWith("@") || name.startsWith(".") ? name : "@" + name;
  }

  private Trouble refuses(String name) {
    if (closing != null) {
      return Trouble.of(Verdict.NOT_SENT, Condition.CLOSED, "the Serve is closed");
    }
    if (names.containsKey(name)) {
      return Trouble.of(Verdict.NOT_SENT, Condition.INVALID_NAME, name + " is registered here already: unregister it first");
    }
    return Target.checkName(name);
  }

  private void withdraw(Registration r, Trouble t) {
    names.remove(r.name, r);
    if (r.retry != null) {
      r.retry.cancel(false);
    }
    r.fail(t);
  }

  /**
   * Takes a name back; the future completes when the node has done it. Requests that came before are still answered. An
   * unknown name is no error.
   */
  public CompletableFuture<Void> unregister(String name) {
    CompletableFuture<Void> done = new CompletableFuture<>();
    synchronized (lock) {
      Registration r = names.get(withSign(name));
      if (r == null || inlet == null || !r.confirmed) {
        if (r != null) {
          withdraw(r, Trouble.of(Verdict.NOT_SENT, Condition.CANCELLED, "it was unregistered"));
        }
        return CompletableFuture.completedFuture(null);
      }
      order(
          r.name,
          false,
          false,
          new Order() {
            @Override
            public void answered(long handle, Failure failure) {
              names.remove(r.name, r);
              execute(() -> finish(done, failure == null ? null : Trouble.of(failure), r.name));
            }

            @Override
            public void broken() {
              names.remove(r.name, r); // with the stream
              execute(() -> done.complete(null));
            }
          });
    }
    return done;
  }

  private static void finish(CompletableFuture<Void> done, Trouble t, String name) {
    if (t == null) {
      done.complete(null);
    } else {
      done.completeExceptionally(new MeshException(t, name, ""));
    }
  }

  private void order(String name, boolean register, boolean shared, Order order) {
    orders.put(++session, order);
    inlet.orders.add(Inlet.order(session, name, register, shared));
    inlet.wire.wake();
  }

  /** Registers a name on the open stream. */
  private void enrol(Registration r) {
    Inlet asked = inlet;
    order(
        r.name,
        true,
        r.options.shared(),
        (handle, failure) -> {
          if (names.get(r.name) != r) {
            return;
          }
          if (failure == null) {
            r.confirmed = r.everConfirmed = true;
            execute(() -> r.future.complete(String.format(":%016x", handle)));
          } else if (!r.everConfirmed) {
            withdraw(r, Trouble.of(failure).with(Verdict.REJECTED));
          } else {
            // Perhaps the node has not noticed yet that the old stream is gone.
            error(new MeshException(Trouble.of(failure).with(Verdict.REJECTED), r.name, ""));
            long half = o.backoffMax.toNanos() / 2;
            r.retry = timer.schedule(() -> again(r, asked), half + ThreadLocalRandom.current().nextLong(half + 1));
          }
        });
  }

  private void again(Registration r, Inlet asked) {
    synchronized (lock) {
      if (inlet == asked && closing == null && names.get(r.name) == r) {
        enrol(r);
      }
    }
  }

  // What an Inlet asks, with the lock.

  boolean knows(String name) {
    return names.containsKey(name);
  }

  boolean queueFull() {
    return heldBytes >= o.maxQueueBytes;
  }

  boolean submit(Task task) {
    Registration r = names.get(task.request.name());
    if (r == null) {
      return false;
    }
    heldBytes += task.bytes();
    heldPushes += task.request.isPush() ? 1 : 0;
    r.queue.add(task);
    r.next();
    return true;
  }

  void answered(long order, long handle, Failure failure) {
    Order waiting = orders.remove(order);
    if (waiting != null) {
      waiting.answered(handle, failure);
    }
  }

  private void done(Task task) {
    heldBytes -= task.bytes();
    heldPushes -= task.request.isPush() ? 1 : 0;
    if (stopped && !choked()) {
      stopped = false;
      inlet.readOn();
    }
    settleClose();
  }

  /** Says that no more pushes can be taken for now. */
  private boolean choked() {
    return heldPushes >= o.maxPushes || queueFull();
  }

  private void panicked(String id, Throwable cause) {
    error(new IllegalStateException("a handler failed (" + id + "): " + cause, cause));
  }

  private void error(Throwable t) {
    execute(() -> o.onError.accept(t));
  }

  private void kick() {
    if (wire != null || paused || closing != null || names.isEmpty()) {
      return;
    }
    tell(LinkState.of(LinkState.Kind.CONNECTING));
    wire = new Wire(Wire.SERVE, o, "", lock, timer.scheduler(), new Life());
    wire.start();
  }

  /** One life of the stream, from its dial to its end. */
  private final class Life implements Wire.Role {
    private Inlet own;

    @Override
    public void opened(Peer peer) {
      own = inlet = new Inlet(wire, peer, Serve.this);
      tell(LinkState.up(peer));
      new ArrayList<>(names.values()).forEach(Serve.this::enrol);
    }

    @Override
    public void frame(Frame frame) throws ProtocolException {
      own.frame(frame);
      if (!stopped && heldPushes > 0 && choked()) {
        stopped = true;
        wire.stop();
      }
    }

    @Override
    public boolean fill(Batch batch) {
      return own.fill(batch);
    }

    @Override
    public void ended(Throwable cause) {
      lost(own, cause);
    }
  }

  private void lost(Inlet was, Throwable cause) {
    String reason = cause == null ? "the node ended the stream" : cause.getMessage();
    wire = null;
    inlet = null;
    stopped = false;
    if (was != null) {
      was.release("the stream ended: " + reason);
    }
    Map<Long, Order> waiting = orders;
    orders = new HashMap<>();
    waiting.values().forEach(Order::broken);
    for (Registration r : names.values()) {
      r.confirmed = false;
      if (r.retry != null) {
        r.retry.cancel(false);
      }
    }
    settleClose();
    if (closing != null) {
      return;
    }
    if (was == null) {
      failNew(Trouble.of(Verdict.NOT_SENT, Condition.CONNECT_FAILED, "connect (" + o.address + "): " + reason, cause));
    } else if (System.nanoTime() - was.openedAt >= o.backoffMax.toNanos()) {
      backoff.reset();
    }
    paused = true;
    pause = timer.schedule(this::resume, TimeUnit.MILLISECONDS.toNanos(backoff.next()));
    tell(LinkState.because(LinkState.Kind.LOST, reason));
  }

  private void failNew(Trouble t) {
    for (Registration r : new ArrayList<>(names.values())) {
      if (!r.everConfirmed && !r.options.waitUp()) {
        withdraw(r, t);
      }
    }
  }

  private void resume() {
    synchronized (lock) {
      paused = false;
      kick();
    }
  }

  /** As {@link #closeAsync(Duration)} with the builder's drain time. */
  public CompletableFuture<Void> closeAsync() {
    return closeAsync(o.drainTime);
  }

  /**
   * Ends in good order: goaway, the answers that are due, the end of the stream, and of the handlers. What is not done
   * after the drain time is cut: the contexts of its handlers end. The future never fails. Safe to call twice.
   */
  public CompletableFuture<Void> closeAsync(Duration drainTime) {
    synchronized (lock) {
      if (closing != null) {
        return closing.copy();
      }
      closing = new CompletableFuture<>();
      if (pause != null) {
        pause.cancel(false);
      }
      for (Registration r : names.values()) {
        if (r.retry != null) {
          r.retry.cancel(false);
        }
        r.fail(Trouble.of(Verdict.NOT_SENT, Condition.CLOSED, "the Serve is closed")); // where it has no outcome yet
      }
      if (inlet != null) {
        inlet.goaway();
      } else if (wire != null) {
        wire.end(new Exception("the Serve is closed"));
      }
      timer.schedule(this::cut, drainTime.toNanos());
      settleClose();
      return closing.copy();
    }
  }

  private void cut() {
    synchronized (lock) {
      if (wire != null) {
        wire.end(new Exception("the drain time was over"));
      }
      closed();
    }
  }

  private void settleClose() {
    if (closing != null && wire == null && heldBytes == 0) {
      closed();
    }
  }

  private void closed() {
    if (ended) {
      return;
    }
    ended = true;
    names.clear();
    timer.close();
    tell(LinkState.of(LinkState.Kind.CLOSED));
    CompletableFuture<Void> done = closing;
    execute(() -> done.complete(null));
    if (ownExecutor != null) {
      ownExecutor.shutdown(); // what was given to it still runs
    }
  }

  /** As {@link #closeAsync()}, and waits for it. */
  @Override
  public void close() {
    closeAsync().join();
  }

  private void tell(LinkState state) {
    execute(() -> o.onState.accept(state));
  }

  /** Runs what is the caller's, elsewhere. After the end it runs here: a future that nobody has seen yet fails. */
  private void execute(Runnable r) {
    if (ended && ownExecutor != null && ownExecutor.isShutdown()) {
      r.run();
    } else {
      executor.execute(r);
    }
  }

  /** The address of the node. */
  @Override
  public String toString() {
    return "Serve[" + o.address + "]";
  }
}
