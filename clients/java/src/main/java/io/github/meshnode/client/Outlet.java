package io.github.meshnode.client;

import com.google.protobuf.ByteString;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.Map;
import java.util.Set;
import mesh.v1.Cluster.Cancel;
import mesh.v1.Cluster.Frame;

/** The state of one open link: what was sent on it and has no answer yet. Guarded by its Link's lock. */
final class Outlet {
  private static final long CHECK_NANOS = 1_000_000_000L;

  final Wire wire;
  final Peer peer;
  final Map<Long, Message> flights = new LinkedHashMap<>(); // calls that were sent and not answered, left ones too
  final Bulk<Message> bulk;
  final Set<Message> blocked = new LinkedHashSet<>(); // large messages that may not begin yet
  final Map<Object, Set<Message>> aside = new HashMap<>(); // what a large push holds back, by addressee
  final Deque<Long> cancels = new ArrayDeque<>();
  final long openedAt = System.nanoTime();
  long session; // the last one given
  boolean leaving; // the node said goaway
  boolean ending; // half-close when nothing is in flight
  boolean dead;

  private final Options<?> own;
  private long joining; // weight of the large replies that arrive
  private long checked = openedAt;

  Outlet(Wire wire, Peer peer, Options<?> own) {
    this.wire = wire;
    this.peer = peer;
    this.own = own;
    this.bulk = new Bulk<>(peer.maxUnfinishedBytes());
  }

  /** Says why a message can never leave on this link; null where it can. */
  Trouble refuses(Message m) {
    long n = m.payload.length;
    long most = m.isLarge() ? Math.min(peer.maxMessageBytes(), peer.maxUnfinishedBytes()) : peer.maxMessageBytes();
    if (n <= most && (!m.isLarge() || Joiner.weight(n) <= peer.maxUnfinishedBytes())) {
      return null;
    }
    return Trouble.of(Verdict.NOT_SENT, Condition.TOO_LARGE, "too large: " + n + " bytes; the node takes at most " + most);
  }

  /** Says that the peer takes no more calls for now. */
  boolean isFull() {
    return flights.size() >= peer.maxCalls();
  }

  /** Says that nothing is in flight and nothing waits to be sent. */
  boolean isIdle() {
    return flights.isEmpty() && bulk.isEmpty() && cancels.isEmpty();
  }

  /** Gives the message its session. */
  void begin(Message m) {
    m.session = ++session;
    m.out = this;
    m.place = m.push && !m.isLarge() ? Message.Place.DONE : Message.Place.SENT;
    if (!m.push) {
      flights.put(m.session, m);
    } else if (m.isLarge()) {
      holdBack(m);
    }
    if (m.isLarge()) {
      bulk.begin(m);
    }
  }

  /** Makes later messages to the addressee of a large push wait for it. */
  void holdBack(Message push) {
    aside.computeIfAbsent(push.target.addressee(), a -> new LinkedHashSet<>());
  }

  void fillCancels(Batch batch) {
    while (!cancels.isEmpty() && batch.fits(32)) {
      batch.add(Frame.newBuilder().setSession(cancels.remove()).setCancel(Cancel.getDefaultInstance()).build());
    }
  }

  /** Nobody waits for the call any more. Its place is free when it is answered. */
  void cancel(Message m) {
    m.gone = true;
    bulk.stop(m);
    cancels.add(m.session);
    wire.wake();
  }

  /** Forgets the call. */
  void drop(Message m) {
    flights.remove(m.session);
    bulk.stop(m);
    unjoin(m);
  }

  /** Takes a reply, failure or part. Says whether that ended a call. */
  boolean answer(Frame frame) {
    Message m = flights.get(frame.getSession());
    if (m == null) {
      return false; // late, or nobody's
    }
    try {
      if (!taken(m, frame)) {
        return false;
      }
    } catch (Joiner.BadPart e) {
      m.fail(badReply(e.getMessage()));
      cancels.add(m.session); // it may stop sending that reply
    }
    drop(m);
    m.place = Message.Place.DONE;
    return true;
  }

  private boolean taken(Message m, Frame frame) throws Joiner.BadPart {
    long now = System.nanoTime();
    switch (frame.getBodyCase()) {
      case FAILURE:
        m.fail(m.tooLate(Trouble.of(frame.getFailure())));
        return true;
      case PART:
        if (m.join == null) {
          return false; // nobody's
        }
        byte[] whole = m.join.add(frame.getPart().getPayload(), now);
        if (whole != null) {
          m.succeed(replyOf(m.begun, whole));
        }
        return whole != null;
      case REPLY:
        if (m.join != null) {
          throw new Joiner.BadPart("it has two beginnings");
        }
        return reply(m, frame.getReply(), now);
      default:
        return false;
    }
  }

  private boolean reply(Message m, mesh.v1.Cluster.Reply reply, long now) throws Joiner.BadPart {
    long total = reply.getTotalSize();
    ByteString payload = reply.getPayload();
    if (total == 0 && payload.size() <= own.maxMessageBytes) {
      m.succeed(replyOf(reply, payload.toByteArray()));
      return true;
    }
    Joiner join = total == 0 ? null : new Joiner(payload, total, now);
    boolean fits =
        join != null && total > 0 && total <= own.maxMessageBytes && joining + Joiner.weight(total) <= own.maxUnfinishedBytes;
    if (!fits) {
      String size = total == 0 ? String.valueOf(payload.size()) : Long.toUnsignedString(total);
      long room = Math.min(own.maxMessageBytes, own.maxUnfinishedBytes - joining);
      m.fail(Trouble.of(Verdict.HANDLER_FAILED, Condition.REPLY_TOO_LARGE, "reply too large: " + size + " bytes; this process takes " + room + " now"));
      cancels.add(m.session);
      return true;
    }
    m.join = join;
    m.begun = reply;
    joining += Joiner.weight(total);
    bulk.stop(m); // a reply stops the rest of its request
    return false;
  }

  private void unjoin(Message m) {
    if (m.join != null) {
      joining -= Joiner.weight(m.join.total);
      m.join = null;
      m.begun = null;
    }
  }

  /** Fails the calls whose large reply has stopped arriving; looks once a second. */
  void overdue() {
    long now = System.nanoTime();
    if (now - checked < CHECK_NANOS) {
      return;
    }
    checked = now;
    for (Message m : new ArrayList<>(flights.values())) {
      if (m.join != null && now - m.join.latest >= Joiner.PART_TIMEOUT_NANOS) {
        unjoin(m);
        m.fail(badReply("no part for 30 s"));
        cancel(m);
      }
    }
  }

  private static Reply replyOf(mesh.v1.Cluster.Reply frame, byte[] payload) {
    return new Reply(payload, Headers.toMetadata(frame.getHeadersList()), Headers.toMetadata(frame.getTrailersList()));
  }

  private static Trouble badReply(String what) {
    return Trouble.of(Verdict.MAYBE_EXECUTED, Condition.INVALID_REQUEST, "invalid large reply: " + what);
  }
}
