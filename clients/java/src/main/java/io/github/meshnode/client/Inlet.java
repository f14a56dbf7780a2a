package io.github.meshnode.client;

import com.google.protobuf.ByteString;
import com.google.protobuf.UnsafeByteOperations;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Set;
import mesh.v1.Cluster;
import mesh.v1.Cluster.Failure;
import mesh.v1.Cluster.Frame;
import mesh.v1.Cluster.Goaway;
import mesh.v1.Cluster.Header;
import mesh.v1.Cluster.Reason;

/**
 * The state of one open stream of a Serve: what came down it and has no answer yet. Guarded by its Serve's lock, which
 * start, reply and fail take themselves.
 */
final class Inlet {
  private static final long CHECK_NANOS = 1_000_000_000L;
  private static final long MAX_TIME_LEFT_US = 3_153_600_000_000_000L; // a century

  /** A large request whose parts arrive. */
  private record Joining(Joiner join, Cluster.Request request, Long due) {}

  /** A large reply on its way out. */
  private static final class Answer extends Bulk.Parcel {
    final Frame first;

    Answer(long session, byte[] payload, Frame first) {
      super(payload);
      this.session = session;
      this.first = first;
    }
  }

  final Wire wire;
  final Peer peer;
  final Deque<Frame> orders = new ArrayDeque<>(); // register and unregister
  final long openedAt = System.nanoTime();
  boolean leaving; // goaway was asked for

  private final ServeCore owner;
  private final Map<Long, Task> tasks = new HashMap<>(); // calls that were placed and not answered
  private final Set<Long> calls = new HashSet<>(); // all that were taken and not answered
  private final Map<Long, Joining> joins = new HashMap<>();
  private final Deque<Frame> small = new ArrayDeque<>();
  private final Deque<Answer> blocked = new ArrayDeque<>(); // large replies that may not begin yet
  private final Bulk<Answer> bulk;
  private boolean dead;
  private boolean said; // the goaway left
  private long last;
  private long unfinished;
  private long checked = openedAt;

  Inlet(Wire wire, Peer peer, ServeCore owner) {
    this.wire = wire;
    this.peer = peer;
    this.owner = owner;
    this.bulk = new Bulk<>(peer.maxUnfinishedBytes());
  }

  /** Takes a frame. What it throws ends the stream. */
  void frame(Frame frame) throws ProtocolException {
    long session = frame.getSession();
    switch (frame.getBodyCase()) {
      case REQUEST:
        begin(session, frame.getRequest());
        break;
      case BODY_NOT_SET:
        begin(session, null);
        break;
      case PART:
        part(session, frame.getPart().getPayload());
        break;
      case CANCEL:
        cancelled(session);
        break;
      case REGISTERED:
        owner.answered(session, frame.getRegistered().getHandle(), null);
        break;
      case FAILURE:
        owner.answered(session, 0, frame.getFailure());
        break;
      default: // what only a program says, and streams
    }
    overdue();
  }

  private void begin(long session, Cluster.Request request) throws ProtocolException {
    if (Long.compareUnsigned(session, last) <= 0) {
      if (request == null) {
        return;
      }
      throw new ProtocolException(
          "session %s is not above the last one, %s", Long.toUnsignedString(session), Long.toUnsignedString(last));
    }
    if (leaving) {
      return; // the goaway says that it was not taken
    }
    last = session;
    boolean push = request != null && request.getPush();
    Failure refused = request == null ? Failures.invalid("the frame has no body that this version knows") : wrong(request);
    if (refused == null && !push) {
      refused = overloaded();
    }
    if (!push) {
      calls.add(session);
    }
    if (refused != null) {
      refuse(session, push, refused);
      return;
    }
    Long due = request.getTimeLeftUs() == 0 ? null : (Long) (System.nanoTime() + 1000 * timeLeft(request));
    if (request.getTotalSize() != 0) {
      joining(session, request, due);
    } else {
      dispatch(session, request, request.getPayload().toByteArray(), due);
    }
  }

  private static long timeLeft(Cluster.Request request) {
    long us = request.getTimeLeftUs();
    return us < 0 ? MAX_TIME_LEFT_US : Math.min(us, MAX_TIME_LEFT_US);
  }

  /** Says why a request cannot be taken, by itself; null where it can. */
  private Failure wrong(Cluster.Request r) {
    long total = r.getTotalSize();
    if (r.getAddressCase() == Cluster.Request.AddressCase.ADDRESS_NOT_SET) {
      return Failures.invalid("it has no address: set name or handle");
    }
    if (r.getStream()) {
      return Failures.invalid("this program did not say the feature streams");
    }
    if (r.getMethodBytes().size() > 1024) {
      return Failures.invalid("the method is longer than 1024 bytes");
    }
    if (Headers.bytes(r.getHeadersList()) + r.getTraceTagBytes().size() > Headers.MAX_BYTES) {
      return Failures.invalid("the headers are longer than " + Headers.MAX_BYTES + " bytes");
    }
    if (total == 0 && r.getPayload().size() > Joiner.PART_BYTES) {
      return Failures.invalid("a payload of more than " + Joiner.PART_BYTES + " bytes travels in parts: set total_size");
    }
    if (Long.compareUnsigned(Math.max(total, 0) == total ? Math.max(total, r.getPayload().size()) : total, owner.o.maxMessageBytes) > 0) {
      return Failures.of(Reason.REASON_TOO_LARGE, "too large: " + Long.toUnsignedString(total) + " bytes; at most " + owner.o.maxMessageBytes + " are taken");
    }
    if (r.hasHandle()) {
      return Failures.of(Reason.REASON_STALE_HANDLE, "the handle is none of this program's");
    }
    return owner.knows(r.getName()) ? null : notFound();
  }

  private static Failure notFound() {
    return Failures.of(Reason.REASON_NAME_NOT_FOUND, "name not found: this program does not serve it");
  }

  private Failure overloaded() {
    if (calls.size() >= owner.o.maxCalls) {
      return Failures.of(Reason.REASON_OVERLOADED, "overloaded: calls in flight, at most " + owner.o.maxCalls);
    }
    if (owner.queueFull()) {
      return Failures.of(Reason.REASON_OVERLOADED, "overloaded: the requests in this program have too many bytes");
    }
    return null;
  }

  private void joining(long session, Cluster.Request request, Long due) {
    long total = request.getTotalSize();
    try {
      Joiner join = new Joiner(request.getPayload(), total, System.nanoTime());
      if (unfinished + Joiner.weight(total) > owner.o.maxUnfinishedBytes) {
        String text = "overloaded: unfinished messages, at most " + owner.o.maxUnfinishedBytes + " bytes";
        refuse(session, request.getPush(), Failures.of(Reason.REASON_OVERLOADED, text));
        return;
      }
      unfinished += Joiner.weight(total);
      joins.put(session, new Joining(join, request.toBuilder().clearPayload().build(), due));
    } catch (Joiner.BadPart e) {
      refuse(session, request.getPush(), Failures.invalidLarge(e.getMessage()));
    }
  }

  private void part(long session, ByteString payload) {
    Joining j = joins.get(session);
    if (j == null) {
      return; // nobody's
    }
    try {
      byte[] whole = j.join.add(payload, System.nanoTime());
      if (whole != null) {
        unjoin(session, j);
        dispatch(session, j.request, whole, j.due);
      }
    } catch (Joiner.BadPart e) {
      unjoin(session, j);
      refuse(session, j.request.getPush(), Failures.invalidLarge(e.getMessage()));
    }
  }

  private void unjoin(long session, Joining j) {
    joins.remove(session);
    unfinished -= Joiner.weight(j.join.total);
  }

  /** Fails the large requests whose parts have stopped arriving; looks once a second. */
  private void overdue() {
    long now = System.nanoTime();
    if (joins.isEmpty() || now - checked < CHECK_NANOS) {
      return;
    }
    checked = now;
    for (Map.Entry<Long, Joining> e : new ArrayList<>(joins.entrySet())) {
      if (now - e.getValue().join.latest >= Joiner.PART_TIMEOUT_NANOS) {
        unjoin(e.getKey(), e.getValue());
        refuse(e.getKey(), e.getValue().request.getPush(), Failures.invalidLarge("no part for 30 s"));
      }
    }
  }

  /** Places a whole request. */
  private void dispatch(long session, Cluster.Request request, byte[] payload, Long due) {
    Task task = new Task(this, session, request, payload, due, owner.timer);
    if (!request.getPush()) {
      tasks.put(session, task);
    }
    if (!owner.submit(task)) {
      fail(task, notFound()); // taken back while its parts arrived
    }
  }

  /** Parts could not arrive while this side did not read. */
  void readOn() {
    long now = System.nanoTime();
    joins.values().forEach(j -> j.join.latest = now);
    wire.resume();
  }

  private void cancelled(long session) {
    Joining j = joins.get(session);
    if (j != null) {
      unjoin(session, j);
      refuse(session, j.request.getPush(), Failures.cancelled());
      return;
    }
    Task task = tasks.get(session);
    if (task == null) {
      return; // late, or nobody's
    }
    task.cancel("the caller cancelled", owner.executor);
    if (!task.started) {
      fail(task, Failures.cancelled());
    }
    withdraw(session);
  }

  /** Breaks off a large reply that nobody waits for. */
  private void withdraw(long session) {
    boolean waits = blocked.removeIf(a -> a.session == session);
    if (waits || bulk.stopWhere(a -> a.session == session)) {
      refuse(session, false, Failures.cancelled());
    }
  }

  /** Says whether the handler is to run; it is started then. */
  boolean start(Task task, boolean late) {
    synchronized (owner.lock) {
      if (task.answered || task.cancelled && !task.request.isPush()) {
        return false;
      }
      if (late) {
        fail(task, Task.expired());
        return false;
      }
      task.started = true;
      return true;
    }
  }

  /** Answers a call with a handler's result. Does nothing for a push. */
  void reply(Task task, Reply r) {
    synchronized (owner.lock) {
      if (task.cancelled) {
        fail(task, Failures.cancelled());
        return;
      }
      if (task.request.isPush() || task.answered) {
        return;
      }
      Failure wrong = wrong(r);
      if (wrong != null) {
        fail(task, wrong);
        return;
      }
      task.answered = true;
      if (!dead) {
        answer(task.session, r);
      }
    }
  }

  private Failure wrong(Reply r) {
    long n = r.payload().length;
    long most = Math.min(peer.maxMessageBytes(), owner.o.maxMessageBytes);
    if (Headers.bytes(Headers.of(r.headers())) + Headers.bytes(Headers.of(r.trailers())) > Headers.MAX_BYTES) {
      return Failures.internal("the reply's headers and trailers are longer than " + Headers.MAX_BYTES + " bytes");
    }
    if (n > most || n > Joiner.PART_BYTES && Joiner.weight(n) > peer.maxUnfinishedBytes()) {
      long taken = Math.min(most, peer.maxUnfinishedBytes());
      return Failures.of(Reason.REASON_REPLY_TOO_LARGE, "reply too large: " + n + " bytes; at most " + taken + " are taken");
    }
    return null;
  }

  private void answer(long session, Reply r) {
    byte[] payload = r.payload();
    List<Header> headers = Headers.of(r.headers());
    boolean large = payload.length > Joiner.PART_BYTES;
    Cluster.Reply.Builder reply =
        Cluster.Reply.newBuilder()
            .setPayload(UnsafeByteOperations.unsafeWrap(payload, 0, Math.min(payload.length, Joiner.PART_BYTES)))
            .setTotalSize(large ? payload.length : 0)
            .addAllHeaders(headers)
            .addAllTrailers(Headers.of(r.trailers()));
    Frame first = Frame.newBuilder().setSession(session).setReply(reply).build();
    if (large) {
      blocked.add(new Answer(session, payload, first));
    } else {
      small.add(first);
    }
    wire.wake();
  }

  /** Answers a call with a failure. Does nothing for a push. */
  void fail(Task task, Failure failure) {
    synchronized (owner.lock) {
      if (!task.answered && !task.request.isPush()) {
        task.answered = true;
        refuse(task.session, false, failure);
      }
    }
  }

  private void refuse(long session, boolean push, Failure failure) {
    if (!push && !dead) {
      small.add(Frame.newBuilder().setSession(session).setFailure(failure).build());
      wire.wake();
    }
  }

  /** Says that no more is taken, and lets what was end. */
  void goaway() {
    leaving = true;
    wire.wake();
  }

  /** Adds what may be sent now; true: the last answer has left after a goaway. */
  boolean fill(Batch batch) {
    while (!orders.isEmpty() && batch.fits(orders.peek().getSerializedSize())) {
      batch.add(orders.remove());
    }
    if (leaving && !said) {
      said = true;
      Goaway goaway = Goaway.newBuilder().setLastSession(last).setMessage("the program is leaving").build();
      batch.add(Frame.newBuilder().setGoaway(goaway).build());
    }
    int room = bulk.isEmpty() && blocked.isEmpty() ? 0 : Bulk.PART_ROOM;
    while (!small.isEmpty() && batch.fits(small.peek().getSerializedSize() + (batch.isEmpty() ? 0 : room))) {
      Frame frame = small.remove();
      batch.add(frame);
      finished(frame.getSession());
    }
    for (Iterator<Answer> i = blocked.iterator(); i.hasNext(); ) {
      Answer answer = i.next();
      if (!bulk.mayBegin(answer.payload.length) || !batch.fits(answer.first.getSerializedSize())) {
        break;
      }
      i.remove();
      batch.add(answer.first);
      bulk.begin(answer);
    }
    bulk.fill(batch, answer -> finished(answer.session));
    return leaving && batch.isEmpty() && calls.isEmpty() && joins.isEmpty();
  }

  private void finished(long session) {
    calls.remove(session);
    tasks.remove(session);
  }

  /** The stream has ended: nobody waits for what it brought. */
  void release(String why) {
    dead = true;
    joins.clear();
    tasks.values().forEach(t -> t.cancel(why, owner.executor));
    tasks.clear();
    calls.clear();
  }

  /** The wire's form of a register or unregister. */
  static Frame order(long session, String name, boolean register, boolean shared) {
    Frame.Builder f = Frame.newBuilder().setSession(session);
    if (register) {
      return f.setRegister(Cluster.Register.newBuilder().setName(name).setShared(shared)).build();
    }
    return f.setUnregister(Cluster.Unregister.newBuilder().setName(name)).build();
  }

}
