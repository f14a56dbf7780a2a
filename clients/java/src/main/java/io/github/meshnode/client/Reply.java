package io.github.meshnode.client;

import io.grpc.Metadata;
import java.nio.charset.StandardCharsets;

/**
 * What a handler answered, or is to answer. The bytes belong to whoever receives them.
 *
 * @param payload the reply's bytes
 * @param headers what the handler set as headers
 * @param trailers what the handler set as trailers
 */
public record Reply(byte[] payload, Metadata headers, Metadata trailers) {
  /** A reply without headers and trailers. */
  public static Reply of(byte[] payload) {
    return new Reply(payload, new Metadata(), new Metadata());
  }

  /** A reply with a text, as UTF-8. */
  public static Reply of(String text) {
    return of(text.getBytes(StandardCharsets.UTF_8));
  }

  /** The payload as UTF-8. */
  public String text() {
    return new String(payload, StandardCharsets.UTF_8);
  }
}
