package io.github.meshnode.client;

import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.Iterator;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.function.Predicate;

/**
 * What waits to be sent, first come, first served, within bounds; and which message may leave next. Guarded by its
 * Link's lock.
 */
final class Line {
  private final int maxCalls;
  private final long maxPushBytes;
  private final Set<Message> room = new LinkedHashSet<>(); // pushes that wait for room
  private Set<Message> line = new LinkedHashSet<>();
  private int calls;
  private long pushBytes;
  private long order;

  /** Pushes that were accepted and certainly did not run. */
  long pushesLost;

  Line(int maxCalls, long maxPushBytes) {
    this.maxCalls = maxCalls;
    this.maxPushBytes = maxPushBytes;
  }

  boolean isEmpty() {
    return line.isEmpty() && room.isEmpty();
  }

  int size() {
    return line.size();
  }

  /** Says why one more message cannot wait; null where it can. */
  Trouble refuses(Message m) {
    if (m.push || calls < maxCalls) {
      return null;
    }
    return Trouble.of(Verdict.NOT_SENT, Condition.OVERLOADED, "the line is full: " + calls + " calls wait");
  }

  /** Takes a message; false: it is a push that waits for room. */
  boolean add(Message m) {
    if (m.push && (!room.isEmpty() || pushBytes >= maxPushBytes)) {
      m.place = Message.Place.ROOM;
      room.add(m);
      return false;
    }
    m.order = ++order;
    m.place = Message.Place.LINE;
    line.add(m);
    count(m, 1);
    return true;
  }

  /** A push has waited long enough for room. */
  void giveUp(Message m) {
    if (m.place == Message.Place.ROOM) {
      room.remove(m);
      m.place = Message.Place.DONE;
      m.fail(Trouble.of(Verdict.NOT_SENT, Condition.OVERLOADED, "the line is full: " + pushBytes + " bytes of pushes wait"));
    }
  }

  private void count(Message m, int by) {
    if (m.push) {
      pushBytes += by * m.size();
    } else {
      calls += by;
    }
  }

  /** Takes a message out, wherever it stands, and lets in what waits for room. */
  void remove(Message m, Outlet current) {
    if (m.place == Message.Place.ROOM) {
      room.remove(m);
    } else if (m.place == Message.Place.LINE || m.place == Message.Place.ASIDE) {
      line.remove(m);
      if (current != null) {
        current.blocked.remove(m);
        current.aside.values().forEach(held -> held.remove(m));
      }
      count(m, -1);
    }
    m.place = Message.Place.DONE;
    for (Iterator<Message> i = room.iterator(); i.hasNext() && pushBytes < maxPushBytes; ) {
      Message waiting = i.next();
      i.remove();
      waiting.order = ++order;
      waiting.place = Message.Place.LINE;
      line.add(waiting);
      count(waiting, 1);
      if (current != null) {
        waiting.succeed(null);
      }
    }
  }

  /** Puts messages back where their order belongs; counted says that they were counted all the time. */
  void putBack(Collection<Message> back, boolean counted) {
    if (back.isEmpty()) {
      return;
    }
    List<Message> all = new ArrayList<>(line);
    all.addAll(back);
    all.sort(Comparator.comparingLong(m -> m.order));
    line = new LinkedHashSet<>(all);
    for (Message m : back) {
      m.place = Message.Place.LINE;
      if (!counted) {
        count(m, 1);
      }
    }
  }

  /** The pushes that stand in the line of a link that opened are accepted. */
  void accept() {
    for (Message m : line) {
      if (m.push) {
        m.succeed(null);
      }
    }
  }

  /** Fails what waits, where which says so. */
  void fail(Trouble t, Outlet current, Predicate<Message> which) {
    List<Message> all = new ArrayList<>(line);
    all.addAll(room);
    for (Message m : all) {
      if (which.test(m)) {
        lose(m, t, current);
      }
    }
  }

  private void lose(Message m, Trouble t, Outlet current) {
    if (m.push && m.settled) {
      pushesLost++;
    }
    remove(m, current);
    m.fail(t);
  }

  /** Finds the message that may leave next on a link, and sets aside those that may not; null: none. */
  Message next(Outlet o) {
    for (; ; ) {
      Message blocked = first(o.blocked);
      if (blocked != null && o.bulk.mayBegin(blocked.payload.length)) {
        return !blocked.push && o.isFull() ? null : blocked;
      }
      Message m = first(line);
      if (m == null || !m.push && o.isFull()) {
        return null;
      }
      Trouble refused = o.refuses(m);
      Set<Message> held = o.aside.get(m.target.addressee());
      if (refused != null) {
        lose(m, refused, o);
      } else if (held != null) {
        setAside(m, held);
      } else if (m.isLarge() && (!o.blocked.isEmpty() || !o.bulk.mayBegin(m.payload.length))) {
        setAside(m, o.blocked);
        if (m.push) {
          o.holdBack(m);
        }
      } else {
        return m;
      }
    }
  }

  private void setAside(Message m, Set<Message> where) {
    line.remove(m);
    m.place = Message.Place.ASIDE;
    where.add(m);
  }

  private static Message first(Set<Message> set) {
    return set.isEmpty() ? null : set.iterator().next();
  }
}
