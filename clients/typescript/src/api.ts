// The types of a Link's methods; a Serve shares some of them.

import type { Metadata } from "@grpc/grpc-js";

import type { CommonOptions, Peer } from "./hello.js";
import type { DialOptions } from "./wire.js";

/** Options of a Link. */
export interface LinkOptions extends CommonOptions, DialOptions {
  /** The node's name as this process calls it, for its log and for errors. Default none. */
  node?: string;
  /** How many calls may wait to be sent. Default 16384. */
  lineCalls?: number;
  /** How many bytes of pushes may wait to be sent. Default 4194304. */
  linePushBytes?: number;
  /** How long a push waits for room in the line, in ms. Default 1000. */
  sendWaitMs?: number;
  /** Is told of each change of the link's state, in order. */
  onState?: (state: LinkState) => void;
}

/** The state of a link: "lost" has the reason and goes on by itself when there is something to send. */
export type LinkState =
  | { state: "idle" | "connecting" | "closed" }
  | { state: "up"; peer: Peer }
  | { state: "leaving" | "lost"; reason: string };

/** Options of a single message. */
export interface SendOptions {
  /** Its deadline, in ms from now. The handler knows it. Default none. */
  timeoutMs?: number;
  /** Gives it up: the handler is told. */
  signal?: AbortSignal;
  /** gRPC metadata for the handler, "traceparent" among them. 8 KiB at most. */
  headers?: Metadata;
  /** A skynet trace tag. */
  traceTag?: string;
  /** Fails at once while the link pauses after a failed try, rather than wait for the next one. */
  noWait?: boolean;
  /** Waits on when a try to open the link fails, rather than fail with it. */
  waitUp?: boolean;
}

/** What a handler answered. */
export interface Reply {
  payload: Buffer;
  headers: Metadata;
  trailers: Metadata;
}

/** What a link counted since it was made. */
export interface LinkStats {
  /** Tries to open it, and how many of them failed. */
  dials: number;
  dialsFailed: number;
  /** Pushes that were accepted and certainly did not run: a goaway did not take them, or the link never opened again. */
  pushesLost: number;
}
