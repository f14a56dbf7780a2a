package io.github.meshnode.client;

import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import mesh.v1.Cluster.Failure;
import mesh.v1.Cluster.Frame;

/** The state of a Serve behind its lock: its names, its stream, and when to dial. */
final class ServeCore {
  final Object lock = new Object();
  final Serve.Builder o;
  final Executor executor;
  final Timer timer = new Timer();

  private final ExecutorService ownExecutor; // null where the caller gave one
  private final Backoff backoff;
  private final Notifier notifier;

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

  ServeCore(Serve.Builder o) {
    this.o = o;
    this.ownExecutor = o.executor == null ? newPool() : null;
    this.executor = o.executor == null ? ownExecutor : o.executor;
    this.notifier = new Notifier(o.onState);
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
        executor.execute(() -> task.run(handler, ServeCore.this::panicked).whenComplete((none, err) -> over(task)));
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

  Peer peer() {
    synchronized (lock) {
      return inlet == null ? null : inlet.peer;
    }
  }

  CompletableFuture<String> register(String name, Handler handler, RegisterOptions options) {
    Registration r = new Registration(withSign(name), handler, options);
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

  CompletableFuture<Void> unregister(String name) {
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

  CompletableFuture<Void> close(Duration drainTime) {
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
    try {
      wire = new Wire(Wire.SERVE, o, "", lock, timer.scheduler(), new Life());
    } catch (RuntimeException e) { // of a token supplier, of configureChannel
      lost(null, e);
      return;
    }
    wire.start();
  }

  /** One life of the stream, from its dial to its end. */
  private final class Life implements Wire.Role {
    private Inlet own;

    @Override
    public void opened(Peer peer) {
      own = inlet = new Inlet(wire, peer, ServeCore.this);
      tell(LinkState.up(peer));
      new ArrayList<>(names.values()).forEach(ServeCore.this::enrol);
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

  private void tell(LinkState state) {
    notifier.tell(state, this::execute);
  }

  /** Runs what is the caller's, elsewhere. After the end it runs here: a future that nobody has seen yet fails. */
  private void execute(Runnable r) {
    try {
      executor.execute(r);
    } catch (RejectedExecutionException closed) {
      r.run();
    }
  }
}
