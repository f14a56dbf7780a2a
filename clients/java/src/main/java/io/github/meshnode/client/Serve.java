package io.github.meshnode.client;

import java.time.Duration;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.function.Consumer;

/**
 * Answers requests for names in the mesh, for a program that cannot listen: it opens a stream to a node, registers names
 * there, and answers what comes down. While it has names it keeps the stream open: after a break it opens another by
 * itself, with growing pauses, and registers its names again. A Serve is safe for concurrent use.
 */
public final class Serve implements AutoCloseable {
  private final Builder o;
  private final ServeCore core;

  private Serve(Builder o) {
    this.o = o;
    this.core = new ServeCore(o);
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
    int maxPushes = 16384;
    long maxQueueBytes = 128 << 20;
    Consumer<Throwable> onError = Throwable::printStackTrace;

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

  /** The process at the other end; null while the stream is not open. */
  public Peer peer() {
    return core.peer();
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
    return core.register(name, Objects.requireNonNull(handler), options);
  }

  /**
   * Takes a name back; the future completes when the node has done it. Requests that came before are still answered. An
   * unknown name is no error.
   */
  public CompletableFuture<Void> unregister(String name) {
    return core.unregister(name);
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
    return "Serve[" + o.address + "]";
  }
}
