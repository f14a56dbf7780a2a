package io.github.meshnode.client;

import java.time.Duration;
import mesh.v1.Cluster.Hello;

/**
 * The process at the other end of a link, and what it takes. Sizes are bytes.
 *
 * @param process the name in its hello
 * @param incarnation tells this life of the process from earlier ones
 * @param maxBatchBytes the longest gRPC message that it takes
 * @param maxMessageBytes the largest payload that it takes
 * @param maxUnfinishedBytes its bound of large messages that have begun and not ended
 * @param maxCalls how many unanswered calls it takes on a link
 * @param silence after so long without anything it is dead
 */
public record Peer(
    String process,
    int incarnation,
    int maxBatchBytes,
    long maxMessageBytes,
    long maxUnfinishedBytes,
    int maxCalls,
    Duration silence) {

  static final int VERSION = 1;
  private static final long MAX_INTERVAL_MILLIS = 3_600_000;

  /** Reads a peer's hello. The exception says what is wrong with it. */
  static Peer of(Hello h) throws ProtocolException {
    if (h.getVersion() != VERSION) {
      throw new ProtocolException("protocol version %d is not spoken here; %d is", h.getVersion(), VERSION);
    }
    if (!Options.PROCESS.matcher(h.getProcess()).matches()) {
      throw new ProtocolException("hello.process is no process name");
    }
    if (h.getIncarnation() == 0) {
      throw new ProtocolException("hello.incarnation is 0");
    }
    long interval = Integer.toUnsignedLong(h.getHeartbeatIntervalMs());
    interval = interval == 0 ? 2000 : Math.min(interval, MAX_INTERVAL_MILLIS);
    long batch = or(Integer.toUnsignedLong(h.getMaxBatchBytes()), 256 << 10);
    return new Peer(
        h.getProcess(),
        h.getIncarnation(),
        (int) Math.min(Math.max(batch, 64 << 10), 1 << 20),
        or(h.getMaxMessageBytes(), 64 << 20),
        or(h.getMaxUnfinishedBytes(), 64 << 20),
        (int) Math.min(or(Integer.toUnsignedLong(h.getMaxCalls()), 16384), Integer.MAX_VALUE),
        Duration.ofMillis(Math.max(6000, 3 * interval)));
  }

  /** A bound that a peer names; 0 is the default, and what has its highest bit set is as good as none. */
  private static long or(long v, long otherwise) {
    return v == 0 ? otherwise : v < 0 ? Long.MAX_VALUE / 2 : v;
  }
}
