package io.github.meshnode.client;

import io.grpc.Status;
import mesh.v1.Cluster.Reason;

/** What the mesh itself reports as gone wrong, by the names of google.rpc.ErrorInfo, each with its gRPC code. */
public enum Condition {
  /** The link could not be opened. */
  CONNECT_FAILED(Status.Code.UNAVAILABLE),
  /** The Link or Serve is closed. */
  CLOSED(Status.Code.UNAVAILABLE),
  /** The node left and did not take it. */
  GOAWAY(Status.Code.UNAVAILABLE),
  /** The node is leaving. */
  DRAINING(Status.Code.UNAVAILABLE),
  /** A limit was reached; the message says which. */
  OVERLOADED(Status.Code.RESOURCE_EXHAUSTED),
  /** The request is larger than the node takes. */
  TOO_LARGE(Status.Code.RESOURCE_EXHAUSTED),
  /** The link broke after it was sent. */
  LINK_BROKEN(Status.Code.ABORTED),
  /** The reply is larger than this process, or the node, takes. */
  REPLY_TOO_LARGE(Status.Code.OUT_OF_RANGE),
  /** The target is neither a name with its sign nor a handle. */
  INVALID_TARGET(Status.Code.INVALID_ARGUMENT),
  /** The name breaks the rules for names. */
  INVALID_NAME(Status.Code.INVALID_ARGUMENT),
  /** The message breaks a rule of the protocol. */
  INVALID_REQUEST(Status.Code.INVALID_ARGUMENT),
  /** No service has the name. */
  NAME_NOT_FOUND(Status.Code.NOT_FOUND),
  /** Another program has the name. */
  NAME_TAKEN(Status.Code.ALREADY_EXISTS),
  /** The handle is of an earlier life of the process, or its service stopped. */
  STALE_HANDLE(Status.Code.FAILED_PRECONDITION),
  /** The message went round in a circle. */
  LOOP(Status.Code.FAILED_PRECONDITION),
  /** The service has no such method. */
  UNKNOWN_METHOD(Status.Code.UNIMPLEMENTED),
  /** The caller may not call this. */
  NOT_PERMITTED(Status.Code.PERMISSION_DENIED),
  /** The deadline had passed when the call's turn came. */
  EXPIRED(Status.Code.DEADLINE_EXCEEDED),
  /** The caller's deadline passed. */
  DEADLINE_EXCEEDED(Status.Code.DEADLINE_EXCEEDED),
  /** The caller gave up. */
  CANCELLED(Status.Code.CANCELLED),
  /** The handler failed by a mistake of its own; the message has an id that is in its log. */
  PANIC(Status.Code.INTERNAL);

  private final Status.Code code;

  Condition(Status.Code code) {
    this.code = code;
  }

  /** The gRPC code that goes with it. */
  public Status.Code code() {
    return code;
  }

  /** The condition of a failure on the wire; null where the handler made the failure. */
  static Condition of(Reason reason) {
    switch (reason) {
      case REASON_UNSPECIFIED:
      case REASON_HANDLER:
      case UNRECOGNIZED:
        return null;
      default:
        try {
          return valueOf(reason.name().substring("REASON_".length()));
        } catch (IllegalArgumentException unknown) {
          return null; // of a newer protocol: counts as the handler's
        }
    }
  }

  /** What a failure on the wire with this condition says of the call's execution. */
  Verdict verdict() {
    switch (this) {
      case PANIC:
      case REPLY_TOO_LARGE:
        return Verdict.HANDLER_FAILED;
      case CANCELLED:
      case LINK_BROKEN:
        return Verdict.MAYBE_EXECUTED;
      default:
        return Verdict.REJECTED;
    }
  }
}
