package io.github.meshnode.client;

import com.google.protobuf.Any;
import io.grpc.Metadata;
import io.grpc.Status;
import java.util.List;
import mesh.v1.Cluster.Failure;

/** An error without target and method: whose it is adds them. */
record Trouble(
    Verdict verdict,
    Condition condition,
    Status.Code code,
    String message,
    List<Any> details,
    Metadata headers,
    Metadata trailers,
    Throwable cause) {

  static Trouble of(Verdict verdict, Condition condition, String message) {
    return of(verdict, condition, message, null);
  }

  static Trouble of(Verdict verdict, Condition condition, String message, Throwable cause) {
    return new Trouble(verdict, condition, condition.code(), message, List.of(), new Metadata(), new Metadata(), cause);
  }

  /** What a failure on the wire says: its reason alone decides. */
  static Trouble of(Failure f) {
    Condition condition = Condition.of(f.getReason());
    Metadata headers = Headers.toMetadata(f.getHeadersList());
    Metadata trailers = Headers.toMetadata(f.getTrailersList());
    if (condition != null) {
      return new Trouble(condition.verdict(), condition, condition.code(), f.getMessage(), List.of(), headers, trailers, null);
    }
    Status.Code code = f.getCode() >= 1 && f.getCode() <= 16 ? Status.fromCodeValue(f.getCode()).getCode() : Status.Code.UNKNOWN;
    return new Trouble(Verdict.HANDLER_FAILED, null, code, f.getMessage(), f.getDetailsList(), headers, trailers, null);
  }

  Trouble with(Verdict other) {
    return new Trouble(other, condition, code, message, details, headers, trailers, cause);
  }
}
