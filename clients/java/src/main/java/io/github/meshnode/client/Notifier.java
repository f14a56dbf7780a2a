package io.github.meshnode.client;

import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.function.Consumer;

/** Tells a listener of states one after the other, on an executor. Guarded by its owner's lock. */
final class Notifier {
  private final Consumer<LinkState> listener;
  private CompletableFuture<?> last = CompletableFuture.completedFuture(null);

  Notifier(Consumer<LinkState> listener) {
    this.listener = listener;
  }

  void tell(LinkState state, Executor executor) {
    last = last.thenRunAsync(() -> accept(state), executor);
  }

  private void accept(LinkState state) {
    try {
      listener.accept(state);
    } catch (RuntimeException e) { // the listener's mistake: the next state comes all the same
      Thread t = Thread.currentThread();
      t.getUncaughtExceptionHandler().uncaughtException(t, e);
    }
  }
}
