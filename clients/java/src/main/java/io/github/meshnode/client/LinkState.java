package io.github.meshnode.client;

/**
 * The state of a Link or a Serve.
 *
 * @param kind what it is
 * @param peer the other end, where it is up; else null
 * @param reason why, where it is lost or leaving; else empty
 */
public record LinkState(Kind kind, Peer peer, String reason) {
  /** The states. */
  public enum Kind {
    /** A try to open it has begun. */
    CONNECTING,
    /** The node has accepted. */
    UP,
    /** The node said that it leaves; what it took is still answered. */
    LEAVING,
    /** It could not be opened, or broke. The next try follows by itself where something waits. */
    LOST,
    /** It was closed by this process. */
    CLOSED
  }

  static LinkState of(Kind kind) {
    return new LinkState(kind, null, "");
  }

  static LinkState up(Peer peer) {
    return new LinkState(Kind.UP, peer, "");
  }

  static LinkState because(Kind kind, String reason) {
    return new LinkState(kind, null, reason);
  }
}
