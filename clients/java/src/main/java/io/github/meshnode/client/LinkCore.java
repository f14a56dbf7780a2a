package io.github.meshnode.client;

import io.grpc.Context;
import io.grpc.Deadline;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.ForkJoinPool;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Predicate;
import mesh.v1.Cluster.Frame;
import mesh.v1.Cluster.Goaway;
import mesh.v1.Cluster.Reason;

/** The state of a Link behind its lock: its line, its streams, and when to dial. */
final class LinkCore {
  /** How long a node that said goaway counts as leaving: its failed dials are told to nobody. */
  private static final long LEAVING_NANOS = TimeUnit.SECONDS.toNanos(30);

  private enum Phase {
    IDLE,
    DIALLING,
    OPEN,
    PAUSE
  }

  private final Object lock = new Object();
  private final Link.Builder o;
  private final Executor executor;
  private final Timer timer = new Timer();
  private final Backoff backoff;
  private final Notifier notifier;

  // Guarded by lock.
  private final Line line;
  private final Set<Message> connecting = new LinkedHashSet<>(); // of connect(): no message at all
  private final Set<Wire> wires = new LinkedHashSet<>(); // all that have not ended
  private Phase phase = Phase.IDLE;
  private Outlet current;
  private Trouble lastError; // of the last try
  private boolean left; // the node said goaway, at leftAt
  private long leftAt;
  private Future<?> pause;
  private CompletableFuture<Void> closing;
  private boolean ended;

  LinkCore(Link.Builder o) {
    this.o = o;
    this.executor = o.executor != null ? o.executor : ForkJoinPool.commonPool();
    this.notifier = new Notifier(o.onState);
    this.backoff = new Backoff(o.backoffMin, o.backoffMax);
    this.line = new Line(o.lineCalls, o.linePushBytes);
  }

  Peer peer() {
    synchronized (lock) {
      return current == null ? null : current.peer;
    }
  }

  long pushesLost() {
    synchronized (lock) {
      return line.pushesLost;
    }
  }

  CompletableFuture<Peer> connect(SendOptions options) {
    Message m = message(Target.process(""), "", new byte[0], options, false);
    synchronized (lock) {
      if (current != null) {
        return CompletableFuture.completedFuture(current.peer);
      }
      submit(m, options, true);
    }
    return m.future.thenApply(none -> peer());
  }

  CompletableFuture<Reply> send(Target target, String method, byte[] payload, SendOptions options, boolean push) {
    Message m = message(target, method, payload, options, push);
    synchronized (lock) {
      submit(m, options, false);
    }
    return m.future;
  }

  private Message message(Target target, String method, byte[] payload, SendOptions options, boolean push) {
    SendOptions effective = options;
    Deadline deadline = contextOf(options).getDeadline();
    if (deadline != null) {
      Duration left = Duration.ofNanos(Math.max(0, deadline.timeRemaining(TimeUnit.NANOSECONDS)));
      if (options.timeout() == null || left.compareTo(options.timeout()) < 0) {
        effective = options.withTimeout(left);
      }
    }
    return new Message(target, method, payload, Headers.of(options.headers()), effective, push, executor);
  }

  private static Context contextOf(SendOptions options) {
    return options.context() != null ? options.context() : Context.current();
  }

  /** Lets a message wait for what it needs, and its caller for its outcome. */
  private void submit(Message m, SendOptions options, boolean connect) {
    Trouble refused = refuses(m);
    if (refused != null) {
      m.fail(refused);
      return;
    }
    List<Future<?>> alarms = new ArrayList<>(2);
    Context context = contextOf(options);
    Context.CancellationListener cancelled = c -> leave(m, c.cancellationCause() instanceof TimeoutException);
    m.onSettled =
        () -> {
          alarms.forEach(a -> a.cancel(false));
          context.removeListener(cancelled);
        };
    if (connect) {
      connecting.add(m);
    } else if (!line.add(m)) {
      alarms.add(timer.schedule(() -> locked(() -> line.giveUp(m)), o.sendWait.toNanos()));
    } else if (m.push && current != null) {
      m.succeed(null);
    }
    if (!m.settled) {
      if (m.timed()) {
        alarms.add(timer.schedule(() -> leave(m, true), m.nanosLeft()));
      }
      m.future.whenComplete((reply, err) -> leaveWhenCancelled(m));
      context.addListener(cancelled, Runnable::run);
    }
    if (current != null) {
      current.wire.wake();
    }
    kick();
  }

  private void leaveWhenCancelled(Message m) {
    if (m.future.isCancelled()) {
      leave(m, false);
    }
  }

  /** Says why a message cannot even wait; null where it can. */
  private Trouble refuses(Message m) {
    Trouble wrong = m.wrong();
    if (closing != null) {
      return closed("the link is closed");
    }
    if (wrong != null) {
      return wrong;
    }
    if (phase == Phase.PAUSE && m.noWait) {
      return lastError;
    }
    Trouble full = line.refuses(m);
    return full != null || current == null ? full : current.refuses(m);
  }

  private static Trouble closed(String why) {
    return Trouble.of(Verdict.NOT_SENT, Condition.CLOSED, why);
  }

  /** Its caller leaves. */
  private void leave(Message m, boolean timeout) {
    synchronized (lock) {
      if (m.settled) {
        return;
      }
      Condition condition = timeout ? Condition.DEADLINE_EXCEEDED : Condition.CANCELLED;
      String why = timeout ? "its deadline passed" : "the caller gave up";
      if (m.place == Message.Place.SENT) {
        m.out.cancel(m);
        m.fail(Trouble.of(Verdict.MAYBE_EXECUTED, condition, why + " after it was sent"));
      } else {
        connecting.remove(m);
        line.remove(m, current);
        String obstacle = current == null && lastError != null ? "; the last try: " + lastError.message() : "";
        m.fail(Trouble.of(Verdict.NOT_SENT, condition, why + " while it waited to be sent" + obstacle));
      }
      if (current != null) {
        current.wire.wake(); // what stood behind it may pass now
      }
    }
  }

  private void locked(Runnable r) {
    synchronized (lock) {
      r.run();
    }
  }

  /** Dials where someone waits and nothing is under way. */
  private void kick() {
    if (phase != Phase.IDLE || closing != null || line.isEmpty() && connecting.isEmpty()) {
      return;
    }
    phase = Phase.DIALLING;
    tell(LinkState.of(LinkState.Kind.CONNECTING));
    Life life = new Life();
    try {
      life.wire = new Wire(Wire.LINK, o, o.node, lock, timer.scheduler(), life);
    } catch (RuntimeException e) { // of a token supplier, of configureChannel
      unreachable(e);
      return;
    }
    wires.add(life.wire);
    life.wire.start();
  }

  /** One life of the link: a stream from its dial to its end. */
  private final class Life implements Wire.Role {
    private Wire wire;
    private Outlet outlet;

    @Override
    public void opened(Peer peer) {
      outlet = new Outlet(wire, peer, o);
      current = outlet;
      phase = Phase.OPEN;
      lastError = null;
      line.accept();
      connecting.forEach(m -> m.succeed(null));
      connecting.clear();
      tell(LinkState.up(peer));
    }

    @Override
    public void frame(Frame frame) {
      LinkCore.this.frame(outlet, frame);
    }

    @Override
    public boolean fill(Batch batch) {
      return LinkCore.this.fill(outlet, batch);
    }

    @Override
    public void ended(Throwable cause) {
      wires.remove(wire);
      if (outlet == null) {
        unreachable(cause);
      } else {
        lost(outlet, cause);
      }
      settleClose();
    }
  }

  private void unreachable(Throwable cause) {
    if (phase != Phase.DIALLING) {
      return;
    }
    lastError = connectTrouble(cause.getMessage(), cause);
    pause();
    boolean patient = left && System.nanoTime() - leftAt < LEAVING_NANOS;
    failWaiting(lastError, m -> m.noWait || !m.waitUp && !patient);
    if (closing == null) {
      tell(LinkState.because(LinkState.Kind.LOST, lastError.message()));
    }
  }

  private Trouble connectTrouble(String why, Throwable cause) {
    String text = "connect [" + o.node + "] (" + o.address + "): " + why;
    return Trouble.of(Verdict.NOT_SENT, Condition.CONNECT_FAILED, text, cause);
  }

  private void pause() {
    phase = Phase.PAUSE;
    if (closing != null) {
      return;
    }
    pause = timer.schedule(() -> locked(this::resume), TimeUnit.MILLISECONDS.toNanos(backoff.next()));
  }

  private void resume() {
    if (phase == Phase.PAUSE) {
      phase = Phase.IDLE;
      kick();
    }
  }

  private void failWaiting(Trouble t, Predicate<Message> which) {
    line.fail(t, current, which);
    for (Message m : new ArrayList<>(connecting)) {
      if (which.test(m)) {
        connecting.remove(m);
        m.fail(t);
      }
    }
  }

  private void frame(Outlet out, Frame frame) {
    boolean draining = frame.hasFailure() && frame.getFailure().getReason() == Reason.REASON_DRAINING;
    Message m = draining && out.leaving ? out.flights.get(frame.getSession()) : null;
    if (frame.hasGoaway()) {
      goaway(out, frame.getGoaway());
    } else if (m != null && !m.gone) {
      resend(out, List.of(m)); // certainly not started, and the node leaves
      kick();
    } else {
      out.answer(frame);
    }
    out.overdue();
    out.wire.wake(); // a place among the calls in flight may be free
  }

  /** Gives a link what it may send next: small frames first, then parts. */
  private boolean fill(Outlet out, Batch batch) {
    if (out.dead) {
      return false;
    }
    out.fillCancels(batch);
    if (out == current) {
      fillLine(out, batch);
    }
    out.bulk.fill(batch, m -> partsLeft(out, m));
    boolean more = out == current && (line.size() > 0 || !out.blocked.isEmpty());
    return batch.isEmpty() && out.ending && out.isIdle() && !more;
  }

  private void fillLine(Outlet out, Batch batch) {
    for (Message m = line.next(out); m != null; m = line.next(out)) {
      if (!batch.fits(m.bound() + (out.bulk.isEmpty() ? 0 : Bulk.PART_ROOM))) {
        return;
      }
      line.remove(m, out);
      out.begin(m);
      batch.add(m.first());
    }
  }

  /** The last part of a large message has left: what a push has held back goes to the front. */
  private void partsLeft(Outlet out, Message m) {
    if (!m.push) {
      return;
    }
    m.place = Message.Place.DONE;
    Set<Message> held = out.aside.remove(m.target.addressee());
    if (held != null) {
      line.putBack(held, true);
      // The writer is at work, and looks again.
    }
  }

  /** Takes calls that certainly did not start from a link, for the next one. */
  private void resend(Outlet out, List<Message> calls) {
    List<Message> back = new ArrayList<>();
    for (Message m : calls) {
      out.drop(m);
      m.out = null;
      m.place = Message.Place.DONE;
      if (m.settled) {
        continue;
      }
      if (closing != null && current == null) {
        m.fail(Trouble.of(Verdict.NOT_SENT, Condition.GOAWAY, "the node left and did not take it, and the link is closed"));
      } else {
        back.add(m);
      }
    }
    line.putBack(back, false);
    if (current != null) {
      current.wire.wake();
    }
  }

  /** The link is the current one no longer; what waits on it goes back to the line. */
  private void retire(Outlet out) {
    if (current != out) {
      return;
    }
    current = null;
    phase = Phase.IDLE;
    List<Message> waiting = new ArrayList<>(out.blocked);
    out.aside.values().forEach(waiting::addAll);
    out.blocked.clear();
    out.aside.clear();
    line.putBack(waiting, true);
  }

  private void goaway(Outlet out, Goaway goaway) {
    if (out.leaving) {
      return;
    }
    out.leaving = out.ending = true;
    long last = goaway.getLastSession();
    long now = System.nanoTime();
    if (out == current) {
      left = true;
      leftAt = now;
      retire(out);
      if (last == 0 && now - out.openedAt < o.backoffMin.toNanos()) {
        lastError = connectTrouble("the node is leaving", null); // it opened only to leave
        pause();
      } else {
        backoff.reset();
      }
      tell(LinkState.because(LinkState.Kind.LEAVING, goaway.getMessage()));
    }
    List<Message> untaken = new ArrayList<>(out.flights.values());
    untaken.removeIf(m -> Long.compareUnsigned(m.session, last) <= 0);
    untaken.sort(Comparator.comparingLong(m -> m.session));
    if (Long.compareUnsigned(out.session, last) > 0) {
      line.pushesLost += out.session - last - untaken.size();
    }
    out.bulk.stopWhere(m -> m.push && Long.compareUnsigned(m.session, last) > 0);
    resend(out, untaken);
    if (closing != null) {
      failWaiting(closed("the link is closed, and the node left"), m -> true);
    }
    kick();
  }

  private void lost(Outlet out, Throwable cause) {
    out.dead = true;
    boolean was = out == current;
    String reason = cause == null ? "the node ended the link" : cause.getMessage();
    retire(out);
    Trouble broken = Trouble.of(Verdict.MAYBE_EXECUTED, Condition.LINK_BROKEN, "link to [" + o.node + "] broke: " + reason, cause);
    for (Message m : new ArrayList<>(out.flights.values())) {
      out.drop(m);
      m.place = Message.Place.DONE;
      m.fail(broken);
    }
    if (!was) {
      return;
    }
    if (closing != null) {
      failWaiting(closed("the link is closed, and it broke: " + reason), m -> true);
      return;
    }
    // A link that breaks soon after it opened counts as a failed try, so that a
    // node that dies again and again is not dialled without a pause.
    if (System.nanoTime() - out.openedAt < o.backoffMax.toNanos()) {
      lastError = connectTrouble(reason, cause);
      pause();
      failWaiting(lastError, m -> m.noWait);
    } else {
      backoff.reset();
    }
    tell(LinkState.because(LinkState.Kind.LOST, reason));
    kick();
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
      failWaiting(closed("the link is closed"), m -> current == null || m.place == Message.Place.ROOM);
      for (Wire w : new ArrayList<>(wires)) {
        if (w.peer() == null) {
          w.end(new Exception("the link is closed"));
        }
      }
      if (current != null) {
        current.ending = true;
        current.wire.wake();
      }
      if (!wires.isEmpty()) {
        timer.schedule(() -> locked(this::cut), drainTime.toNanos());
      }
      settleClose();
      return closing.copy();
    }
  }

  private void cut() {
    for (Wire w : new ArrayList<>(wires)) {
      w.end(new Exception("the drain time was over"));
    }
  }

  private void settleClose() {
    if (closing == null || !wires.isEmpty() || ended) {
      return;
    }
    ended = true;
    timer.close();
    tell(LinkState.of(LinkState.Kind.CLOSED));
    CompletableFuture<Void> done = closing;
    executor.execute(() -> done.complete(null));
  }

  private void tell(LinkState state) {
    notifier.tell(state, executor);
  }
}
