package io.github.meshnode.client;

import com.google.protobuf.Any;
import com.google.rpc.Code;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.List;

/**
 * The one exception with which calls, pushes and registrations complete. {@link #verdict} says whether the message may
 * have been executed; the rest is as in gRPC. Programming mistakes (an option out of range) throw
 * IllegalArgumentException instead.
 */
public final class MeshException extends RuntimeException {
  private static final long serialVersionUID = 1;

  private final transient Trouble trouble;
  private final String target;
  private final String method;

  MeshException(Trouble trouble, String target, String method) {
    super(trouble.message(), trouble.cause());
    this.trouble = trouble;
    this.target = target;
    this.method = method;
  }

  /** Whether the message may have been executed. */
  public Verdict verdict() {
    return trouble.verdict();
  }

  /** The condition of the mesh, or null where the handler returned an error of its own. */
  public Condition condition() {
    return trouble.condition();
  }

  /** The gRPC status code. */
  public Status.Code code() {
    return trouble.code();
  }

  /** The details of a status that the handler made; else empty. */
  public List<Any> details() {
    return trouble.details();
  }

  /** What the handler set as headers. */
  public Metadata headers() {
    return trouble.headers();
  }

  /** What the handler set as trailers. */
  public Metadata trailers() {
    return trouble.trailers();
  }

  /** The target as the caller gave it. */
  public String target() {
    return target;
  }

  /** The method as the caller gave it. */
  public String method() {
    return method;
  }

  /** The same as gRPC has it: code, message, details and trailers. */
  public StatusRuntimeException toStatusRuntimeException() {
    com.google.rpc.Status status =
        com.google.rpc.Status.newBuilder()
            .setCode(Code.forNumber(code().value()).getNumber())
            .setMessage(getMessage())
            .addAllDetails(details())
            .build();
    return StatusProto.toStatusRuntimeException(status, trailers());
  }
}
