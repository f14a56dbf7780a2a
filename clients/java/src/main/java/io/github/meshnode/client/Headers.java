package io.github.meshnode.client;

import com.google.protobuf.ByteString;
import io.grpc.Metadata;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import mesh.v1.Cluster.Header;

/** Headers of the protocol, and gRPC's metadata. */
final class Headers {
  /** The most that the headers of a message have together, each with 32 bytes beside its text. */
  static final int MAX_BYTES = 8 << 10;

  private Headers() {}

  /** What headers count against their bound. */
  static int bytes(List<Header> headers) {
    int n = 0;
    for (Header h : headers) {
      n += h.getKeyBytes().size() + h.getValue().size() + 32;
    }
    return n;
  }

  /** Turns metadata into headers. gRPC's own keys ("grpc-...") stay behind. */
  static List<Header> of(Metadata metadata) {
    List<Header> headers = new ArrayList<>();
    for (String key : metadata.keys()) {
      if (key.startsWith("grpc-")) {
        continue;
      }
      if (key.endsWith(Metadata.BINARY_HEADER_SUFFIX)) {
        for (byte[] value : metadata.getAll(Metadata.Key.of(key, Metadata.BINARY_BYTE_MARSHALLER))) {
          headers.add(Header.newBuilder().setKey(key).setValue(ByteString.copyFrom(value)).build());
        }
      } else {
        for (String value : metadata.getAll(Metadata.Key.of(key, Metadata.ASCII_STRING_MARSHALLER))) {
          headers.add(Header.newBuilder().setKey(key).setValue(ByteString.copyFromUtf8(value)).build());
        }
      }
    }
    return headers;
  }

  /** Turns headers into metadata. What no metadata can hold is left out. */
  static Metadata toMetadata(List<Header> headers) {
    Metadata metadata = new Metadata();
    for (Header h : headers) {
      try {
        if (h.getKey().endsWith(Metadata.BINARY_HEADER_SUFFIX)) {
          metadata.put(Metadata.Key.of(h.getKey(), Metadata.BINARY_BYTE_MARSHALLER), h.getValue().toByteArray());
        } else {
          metadata.put(
              Metadata.Key.of(h.getKey(), Metadata.ASCII_STRING_MARSHALLER), h.getValue().toString(StandardCharsets.UTF_8));
        }
      } catch (IllegalArgumentException badKey) {
        // A peer said what gRPC does not allow.
      }
    }
    return metadata;
  }
}
