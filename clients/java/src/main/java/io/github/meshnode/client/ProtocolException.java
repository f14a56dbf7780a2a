package io.github.meshnode.client;

/** A peer broke the protocol: the link ends. */
final class ProtocolException extends Exception {
  private static final long serialVersionUID = 1;

  ProtocolException(String format, Object... args) {
    super("protocol error: " + String.format(format, args));
  }
}
