package io.github.meshnode.client;

import io.grpc.Context;
import io.grpc.Status;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.BiConsumer;
import mesh.v1.Cluster;
import mesh.v1.Cluster.Reason;

/** One request, from its last part to its answer. Its flags are guarded by its Serve's lock. */
final class Task {
  final long session;
  final Request request;
  boolean started;
  boolean cancelled; // by the caller, or by the stream's end
  boolean answered;

  private final Inlet inlet;
  private final Context.CancellableContext context;
  private final long due; // System.nanoTime, where timed
  private final boolean timed;

  Task(Inlet inlet, long session, Cluster.Request frame, byte[] payload, Long due, Timer timer) {
    this.inlet = inlet;
    this.session = session;
    this.timed = due != null;
    this.due = timed ? due : 0;
    Duration left = timed ? Duration.ofNanos(Math.max(0, due - System.nanoTime())) : null;
    this.context = timed ? Context.ROOT.withDeadlineAfter(left.toNanos(), TimeUnit.NANOSECONDS, timer.scheduler()) : Context.ROOT.withCancellation();
    this.request = new Request(frame.getName(), payload, frame, left, context);
  }

  long bytes() {
    return request.payload().length + 256L;
  }

  /** Runs the handler, and answers. The stage never fails. Called without the lock. */
  CompletionStage<Void> run(Handler handler, BiConsumer<String, Throwable> panicked) {
    if (!inlet.start(this, timed && System.nanoTime() - due >= 0)) {
      return CompletableFuture.completedFuture(null);
    }
    CompletionStage<Reply> stage;
    try {
      stage = context.call(() -> handler.handle(request));
      if (stage == null) {
        stage = CompletableFuture.completedFuture(null);
      }
    } catch (Throwable t) {
      stage = CompletableFuture.failedFuture(t);
    }
    return stage.handle(
        (reply, err) -> {
          answer(reply, err, panicked);
          context.cancel(null); // the handler is done: its timer goes
          return null;
        });
  }

  private void answer(Reply reply, Throwable err, BiConsumer<String, Throwable> panicked) {
    if (err == null) {
      inlet.reply(this, reply == null ? Reply.of(new byte[0]) : reply);
      return;
    }
    // Whatever a handler fails with after its context ended, that is why.
    Throwable why = context.isCancelled() ? context.cancellationCause() : null;
    if (why instanceof TimeoutException) {
      err = Status.DEADLINE_EXCEEDED.withDescription("the deadline passed").asException();
    } else if (why != null) {
      inlet.fail(this, Failures.cancelled());
      return;
    }
    inlet.fail(this, Failures.from(err, request.failureHeaders(), panicked));
  }

  /** Nobody waits any more. Called with the lock; the context's listeners run on the executor. */
  void cancel(String why, java.util.concurrent.Executor executor) {
    if (!cancelled) {
      cancelled = true;
      executor.execute(() -> context.cancel(new java.util.concurrent.CancellationException(why)));
    }
  }

  /** What the caller gets where the deadline passed before the handler started. */
  static Cluster.Failure expired() {
    return Failures.of(Reason.REASON_EXPIRED, "the deadline had passed when the call's turn came");
  }
}
