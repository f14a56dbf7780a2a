package io.github.meshnode.client;

import com.google.protobuf.ByteString;

/** Joins a large payload. It holds what has arrived, never what was announced. */
final class Joiner {
  /** A payload that is longer travels in parts of this size. */
  static final int PART_BYTES = 32 << 10;

  /** How long a message may wait for its next part. */
  static final long PART_TIMEOUT_NANOS = 30_000_000_000L;

  /** Says which rule a piece broke. */
  static final class BadPart extends Exception {
    private static final long serialVersionUID = 1;

    BadPart(String format, Object... args) {
      super(String.format(format, args));
    }
  }

  final long total;
  long latest;
  private ByteString have;

  Joiner(ByteString first, long total, long now) throws BadPart {
    if (first.size() != PART_BYTES || Long.compareUnsigned(total, PART_BYTES) <= 0) {
      throw new BadPart(
          "its first frame has %d bytes of %s; it must have %d of more", first.size(), Long.toUnsignedString(total), PART_BYTES);
    }
    this.total = total;
    this.latest = now;
    this.have = first;
  }

  /** Adds a part, and returns the payload when it is whole, else null. */
  byte[] add(ByteString piece, long now) throws BadPart {
    long sum = (long) have.size() + piece.size();
    if (piece.size() > PART_BYTES) {
      throw new BadPart("a part has %d bytes; the most is %d", piece.size(), PART_BYTES);
    }
    if (sum > total) {
      throw new BadPart("its parts hold more than the %d bytes that it announced", total);
    }
    if (sum < total && piece.size() < PART_BYTES) {
      throw new BadPart("a part has %d bytes before the last one; it must have %d", piece.size(), PART_BYTES);
    }
    have = have.concat(piece);
    latest = now;
    return sum == total ? have.toByteArray() : null;
  }

  /** What a large message of n bytes counts against a bound of unfinished bytes. */
  static long weight(long n) {
    return Math.max(n, 64 << 10);
  }
}
