import { Metadata, status } from "@grpc/grpc-js";

import type { Any } from "./gen/google/protobuf/any.js";
import { type Failure, Reason } from "./gen/mesh/v1/cluster.js";
import { toMetadata } from "./headers.js";

/**
 * What is known of a message's execution:
 *
 * - `"not sent"`: it never reached a handler, because it never left this
 *   process for good. It may be sent again.
 * - `"rejected"`: the node refused it before any handler ran. It may be sent
 *   again.
 * - `"maybe executed"`: the link broke, or the caller gave up, after it was
 *   sent. Send it again only if running twice does no harm.
 * - `"handler failed"`: the handler ran and failed.
 */
export type Verdict = "not sent" | "rejected" | "maybe executed" | "handler failed";

const { UNAVAILABLE, RESOURCE_EXHAUSTED, ABORTED, OUT_OF_RANGE, INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION } = status;

/** The conditions that the mesh itself reports, and their gRPC codes. */
const codes = {
  CONNECT_FAILED: UNAVAILABLE,
  CLOSED: UNAVAILABLE,
  GOAWAY: UNAVAILABLE,
  DRAINING: UNAVAILABLE,
  OVERLOADED: RESOURCE_EXHAUSTED,
  TOO_LARGE: RESOURCE_EXHAUSTED,
  LINK_BROKEN: ABORTED,
  REPLY_TOO_LARGE: OUT_OF_RANGE,
  INVALID_TARGET: INVALID_ARGUMENT,
  INVALID_NAME: INVALID_ARGUMENT,
  INVALID_REQUEST: INVALID_ARGUMENT,
  NAME_NOT_FOUND: NOT_FOUND,
  NAME_TAKEN: status.ALREADY_EXISTS,
  STALE_HANDLE: FAILED_PRECONDITION,
  LOOP: FAILED_PRECONDITION,
  UNKNOWN_METHOD: status.UNIMPLEMENTED,
  NOT_PERMITTED: status.PERMISSION_DENIED,
  EXPIRED: status.DEADLINE_EXCEEDED,
  DEADLINE_EXCEEDED: status.DEADLINE_EXCEEDED,
  CANCELLED: status.CANCELLED,
  PANIC: status.INTERNAL,
} as const;

/** The name of a condition that the mesh itself reports, as in `google.rpc.ErrorInfo`. */
export type Condition = keyof typeof codes;

/** The facts of a {@link MeshError} beside its verdict. */
export interface MeshErrorFacts {
  message: string;
  code: status;
  reason?: Condition | "";
  node?: string;
  target?: string;
  method?: string;
  details?: readonly Any[];
  headers?: Metadata;
  trailers?: Metadata;
  cause?: unknown;
}

/**
 * The one error that calls, pushes and registrations reject with. Programming
 * mistakes (a wrong type, an option out of range) throw `TypeError` or
 * `RangeError` instead.
 */
export class MeshError extends Error {
  override readonly name = "MeshError";
  /** The gRPC status code. */
  readonly code: status;
  /** The condition of the mesh, or `""` where the handler returned an error of its own. */
  readonly reason: Condition | "";
  /** The node as this process calls it, `""` where it has no name for it. */
  readonly node: string;
  /** The target and the method as the caller gave them. */
  readonly target: string;
  readonly method: string;
  /** The details of a status that the handler made. */
  readonly details: readonly Any[];
  /** What the handler set beside its error. */
  readonly headers: Metadata;
  readonly trailers: Metadata;

  constructor(
    /** Whether the message may have been executed. */
    readonly verdict: Verdict,
    facts: MeshErrorFacts,
  ) {
    super(facts.message, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.code = facts.code;
    this.reason = facts.reason ?? "";
    this.node = facts.node ?? "";
    this.target = facts.target ?? "";
    this.method = facts.method ?? "";
    this.details = facts.details ?? [];
    this.headers = facts.headers ?? new Metadata();
    this.trailers = facts.trailers ?? new Metadata();
  }
}

/** An error without node, target and method: whose it is adds them. */
export interface Trouble extends Omit<MeshErrorFacts, "node" | "target" | "method"> {
  verdict: Verdict;
}

/** Makes the trouble of a condition, with its code. */
export function trouble(verdict: Verdict, reason: Condition, message: string, cause?: unknown): Trouble {
  return { verdict, reason, code: codes[reason], message, cause };
}

/** What a failure on the wire says: its reason alone decides. */
const reasons: Partial<Record<Reason, [Verdict, Condition]>> = {
  [Reason.PANIC]: ["handler failed", "PANIC"],
  [Reason.UNKNOWN_METHOD]: ["rejected", "UNKNOWN_METHOD"],
  [Reason.INVALID_NAME]: ["rejected", "INVALID_NAME"],
  [Reason.NAME_NOT_FOUND]: ["rejected", "NAME_NOT_FOUND"],
  [Reason.STALE_HANDLE]: ["rejected", "STALE_HANDLE"],
  [Reason.OVERLOADED]: ["rejected", "OVERLOADED"],
  [Reason.DRAINING]: ["rejected", "DRAINING"],
  [Reason.TOO_LARGE]: ["rejected", "TOO_LARGE"],
  [Reason.REPLY_TOO_LARGE]: ["handler failed", "REPLY_TOO_LARGE"],
  [Reason.EXPIRED]: ["rejected", "EXPIRED"],
  [Reason.CANCELLED]: ["maybe executed", "CANCELLED"],
  [Reason.NOT_PERMITTED]: ["rejected", "NOT_PERMITTED"],
  [Reason.INVALID_REQUEST]: ["rejected", "INVALID_REQUEST"],
  [Reason.NAME_TAKEN]: ["rejected", "NAME_TAKEN"],
  [Reason.LINK_BROKEN]: ["maybe executed", "LINK_BROKEN"],
  [Reason.LOOP]: ["rejected", "LOOP"],
};

/** Turns a failure of the peer into the caller's trouble. */
export function failed(f: Failure): Trouble {
  const known = reasons[f.reason];
  const beside = { headers: toMetadata(f.headers), trailers: toMetadata(f.trailers) };
  if (known) return { ...trouble(known[0], known[1], f.message), ...beside };
  const code = f.code >= status.CANCELLED && f.code <= status.UNAUTHENTICATED ? f.code : status.UNKNOWN;
  return { verdict: "handler failed", code, message: f.message, details: f.details, ...beside };
}

/** The code that goes with a failure of this reason. */
export function codeOf(reason: Reason): status {
  const known = reasons[reason];
  return known ? codes[known[1]] : status.UNKNOWN;
}

/** The text of whatever was thrown. */
export function textOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
