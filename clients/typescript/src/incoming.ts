import { randomBytes } from "node:crypto";

import { Metadata, status } from "@grpc/grpc-js";

import { codeOf, MeshError, textOf } from "./errors.js";
import { Any } from "./gen/google/protobuf/any.js";
import { Failure, Reason } from "./gen/mesh/v1/cluster.js";
import { fromMetadata, headerBytes, maxHeaderBytes } from "./headers.js";
import type { Reply } from "./api.js";

/** A request as its handler sees it. */
export interface Incoming {
  /** The name for which it came, with its sign. */
  readonly name: string;
  readonly method: string;
  readonly payload: Buffer;
  readonly headers: Metadata;
  /** A skynet trace tag, or "". */
  readonly traceTag: string;
  /** Nobody waits for an answer. */
  readonly push: boolean;
  /** What was left of its deadline when it came, in ms; undefined: it has none. */
  readonly timeLeftMs: number | undefined;
  /**
   * Aborted when nobody waits any more: the caller cancelled, the deadline
   * passed, or the stream ended. The call's place counts until the handler
   * returns.
   */
  readonly signal: AbortSignal;
}

/** What a handler returns: a payload, or a payload with headers and trailers. */
export type Outcome = Uint8Array | string | { payload?: Uint8Array | string; headers?: Metadata; trailers?: Metadata } | void;

/** Answers the requests for a name. */
export type Handler = (request: Incoming) => Outcome | Promise<Outcome>;

/** The error that a handler throws to choose what its caller gets. */
export class StatusError extends Error {
  override readonly name = "StatusError";
  readonly details: readonly Any[];
  readonly headers: Metadata;
  readonly trailers: Metadata;

  /** @param beside details (3 KiB at most) and metadata (8 KiB at most) for the caller */
  constructor(
    readonly code: status,
    message: string,
    beside: { details?: readonly Any[]; headers?: Metadata; trailers?: Metadata } = {},
  ) {
    super(message);
    this.details = beside.details ?? [];
    this.headers = beside.headers ?? new Metadata();
    this.trailers = beside.trailers ?? new Metadata();
  }
}

const maxErrorText = 1 << 10;
const maxDetailBytes = 3 << 10;

/** A failure of the mesh's own. */
export function refusal(reason: Reason, message: string): Failure {
  return Failure.create({ reason, code: codeOf(reason), message: cut(message) });
}

/**
 * Turns what a handler threw into its caller's failure. What is no status is
 * the handler's mistake: its text stays here, with an id that the caller gets.
 */
export function failureFrom(thrown: unknown, panicked: (id: string, thrown: unknown) => void): Failure {
  if (thrown instanceof StatusError) {
    return handlerFailure(thrown.code, thrown.message, thrown.details, thrown.headers, thrown.trailers);
  }
  if (thrown instanceof MeshError) {
    // A nested call's "not sent" must not be taken for this call's.
    return thrown.reason === "" ? handlerFailure(thrown.code, thrown.message, thrown.details) : handlerFailure(status.UNKNOWN, thrown.message);
  }
  const e = thrown as { code?: unknown; details?: unknown; metadata?: unknown } | undefined;
  if (thrown instanceof Error && typeof e?.code === "number" && typeof e.details === "string" && e.code >= 1 && e.code <= 16) {
    return handlerFailure(e.code, e.details, [], undefined, e.metadata instanceof Metadata ? e.metadata : undefined); // grpc-js's ServiceError
  }
  const id = randomBytes(6).toString("hex");
  panicked(id, thrown);
  return refusal(Reason.PANIC, `the handler failed; its log has the cause as ${id}`);
}

function handlerFailure(code: status, message: string, details: readonly Any[] = [], headers?: Metadata, trailers?: Metadata): Failure {
  const f = Failure.create({
    reason: Reason.HANDLER,
    code: code >= 1 && code <= 16 ? code : status.UNKNOWN,
    message: cut(message),
    details: [...details],
    headers: fromMetadata(headers),
    trailers: fromMetadata(trailers),
  });
  if (details.reduce((sum, d) => sum + Any.encode(d).finish().length, 0) > maxDetailBytes) f.details = [];
  if (headerBytes(f.headers) + headerBytes(f.trailers) > maxHeaderBytes) f.headers = f.trailers = [];
  return f;
}

/** Bounds a text that goes on the wire, at a character's end. */
function cut(text: string): string {
  const bytes = Buffer.from(text);
  if (bytes.length <= maxErrorText) return bytes.toString();
  let end = maxErrorText;
  while ((bytes[end]! & 0xc0) === 0x80) end--;
  return bytes.toString("utf8", 0, end);
}

/** Turns what a handler returned into a whole reply. Throws where it is none. */
export function replyFrom(outcome: Outcome): Reply {
  const bytes = (payload: unknown): Buffer => {
    if (typeof payload === "string") return Buffer.from(payload);
    if (payload instanceof Uint8Array) return Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
    throw new TypeError(`a handler returned ${textOf(payload)} as payload; it is a Uint8Array or a string`);
  };
  if (outcome === undefined || outcome === null) return { payload: Buffer.alloc(0), headers: new Metadata(), trailers: new Metadata() };
  if (typeof outcome === "string" || outcome instanceof Uint8Array) return { payload: bytes(outcome), headers: new Metadata(), trailers: new Metadata() };
  if (typeof outcome !== "object") throw new TypeError(`a handler returned a ${typeof outcome}; it is a Uint8Array, a string, or an object with payload, headers, trailers`);
  return { payload: bytes(outcome.payload ?? ""), headers: outcome.headers ?? new Metadata(), trailers: outcome.trailers ?? new Metadata() };
}
