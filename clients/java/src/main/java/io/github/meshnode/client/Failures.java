package io.github.meshnode.client;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.function.BiConsumer;
import mesh.v1.Cluster.Failure;
import mesh.v1.Cluster.Header;
import mesh.v1.Cluster.Reason;

/** Makes the failures that go to callers. */
final class Failures {
  private static final int MAX_TEXT = 1 << 10;
  private static final int MAX_DETAILS = 3 << 10;

  private Failures() {}

  /** A failure of the mesh's own. */
  static Failure of(Reason reason, String message) {
    return Failure.newBuilder().setReason(reason).setCode(Condition.of(reason).code().value()).setMessage(cut(message)).build();
  }

  static Failure cancelled() {
    return of(Reason.REASON_CANCELLED, "the caller cancelled");
  }

  static Failure invalid(String what) {
    return of(Reason.REASON_INVALID_REQUEST, "invalid request: " + what);
  }

  static Failure invalidLarge(String what) {
    return of(Reason.REASON_INVALID_REQUEST, "invalid large request: " + what);
  }

  static Failure internal(String message) {
    return handler(Status.Code.INTERNAL, message, List.of(), new Metadata(), new Metadata());
  }

  /**
   * Turns what a handler threw into its caller's failure. What is no status is the handler's mistake: its text stays
   * here, with an id that the caller gets.
   */
  static Failure from(Throwable thrown, Metadata headers, BiConsumer<String, Throwable> panicked) {
    Throwable t = thrown;
    while ((t instanceof CompletionException || t instanceof ExecutionException) && t.getCause() != null) {
      t = t.getCause();
    }
    if (t instanceof StatusException e) {
      return fromStatus(e.getStatus(), e.getTrailers(), headers);
    }
    if (t instanceof StatusRuntimeException e) {
      return fromStatus(e.getStatus(), e.getTrailers(), headers);
    }
    if (t instanceof MeshException e) {
      // A nested call's "not sent" must not be taken for this call's.
      Status.Code code = e.condition() == null ? e.code() : Status.Code.UNKNOWN;
      return handler(code, e.getMessage(), e.details(), headers, new Metadata());
    }
    String id = UUID.randomUUID().toString().substring(0, 13);
    panicked.accept(id, t);
    return of(Reason.REASON_PANIC, "the handler failed; its log has the cause as " + id);
  }

  private static Failure fromStatus(Status status, Metadata trailers, Metadata headers) {
    Metadata t = trailers == null ? new Metadata() : trailers;
    com.google.rpc.Status whole = StatusProto.fromStatusAndTrailers(status, t);
    String message = status.getDescription() == null ? "" : status.getDescription();
    return handler(status.getCode(), message, whole.getDetailsList(), headers, t);
  }

  private static Failure handler(Status.Code code, String message, List<Any> details, Metadata headers, Metadata trailers) {
    Failure.Builder f =
        Failure.newBuilder()
            .setReason(Reason.REASON_HANDLER)
            .setCode(code == Status.Code.OK ? Status.Code.UNKNOWN.value() : code.value())
            .setMessage(cut(message));
    if (details.stream().mapToInt(Any::getSerializedSize).sum() <= MAX_DETAILS) {
      f.addAllDetails(details);
    }
    List<Header> h = Headers.of(headers);
    List<Header> t = Headers.of(trailers);
    if (Headers.bytes(h) + Headers.bytes(t) <= Headers.MAX_BYTES) {
      f.addAllHeaders(h).addAllTrailers(t);
    }
    return f.build();
  }

  /** Bounds a text that goes on the wire, at a character's end. */
  private static String cut(String text) {
    ByteString bytes = ByteString.copyFromUtf8(text);
    int end = bytes.size();
    if (end > MAX_TEXT) {
      end = MAX_TEXT;
      while ((bytes.byteAt(end) & 0xc0) == 0x80) {
        end--;
      }
    }
    return bytes.substring(0, end).toString(StandardCharsets.UTF_8);
  }
}
