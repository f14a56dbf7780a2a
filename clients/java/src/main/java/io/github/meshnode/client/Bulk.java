package io.github.meshnode.client;

import com.google.protobuf.UnsafeByteOperations;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.function.Consumer;
import java.util.function.Predicate;
import mesh.v1.Cluster.Frame;
import mesh.v1.Cluster.Part;

/** Sends large payloads in turn, within what the receiver takes. */
final class Bulk<T extends Bulk.Parcel> {
  /** What a part takes in a batch at the most. */
  static final int PART_ROOM = Joiner.PART_BYTES + 32;

  /** How much of large payloads goes into one batch where little else is there. */
  private static final int ROUND_BYTES = 64 << 10;

  /** A large payload on its way out. */
  static class Parcel {
    final byte[] payload;
    long session;
    private int offset;

    Parcel(byte[] payload) {
      this.payload = payload;
    }
  }

  private final long limit;
  private final LinkedHashSet<T> turn = new LinkedHashSet<>();
  private long begun;

  Bulk(long limit) {
    this.limit = limit;
  }

  boolean isEmpty() {
    return turn.isEmpty();
  }

  /** Says whether n more bytes fit beside what has begun. */
  boolean mayBegin(int n) {
    return begun + Joiner.weight(n) <= limit;
  }

  /** Notes that the first piece is about to leave. */
  void begin(T parcel) {
    Parcel p = parcel;
    p.offset = Joiner.PART_BYTES;
    begun += Joiner.weight(p.payload.length);
    turn.add(parcel);
  }

  /** Forgets what was not sent of a payload. */
  boolean stop(T parcel) {
    if (!turn.remove(parcel)) {
      return false;
    }
    begun -= Joiner.weight(parcel.payload.length);
    return true;
  }

  /** Forgets all payloads of which the condition holds, and says whether there were any. */
  boolean stopWhere(Predicate<T> condition) {
    List<T> found = new ArrayList<>(turn);
    found.removeIf(condition.negate());
    found.forEach(this::stop);
    return !found.isEmpty();
  }

  /** Adds a round of parts, one of each payload and more while they are few; done is told of those that have left. */
  void fill(Batch batch, Consumer<T> done) {
    Set<T> seen = new HashSet<>();
    while (!turn.isEmpty() && batch.fits(PART_ROOM)) {
      T parcel = turn.iterator().next();
      if (!seen.add(parcel) && batch.size() >= ROUND_BYTES) {
        return;
      }
      Parcel p = parcel;
      int end = Math.min(p.offset + Joiner.PART_BYTES, p.payload.length);
      Part part = Part.newBuilder().setPayload(UnsafeByteOperations.unsafeWrap(p.payload, p.offset, end - p.offset)).build();
      batch.add(Frame.newBuilder().setSession(p.session).setPart(part).build());
      p.offset = end;
      turn.remove(parcel);
      if (end < p.payload.length) {
        turn.add(parcel);
      } else {
        begun -= Joiner.weight(p.payload.length);
        done.accept(parcel);
      }
    }
  }
}
