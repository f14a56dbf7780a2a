import { randomBytes } from "node:crypto";
import { hostname } from "node:os";

import { Hello } from "./gen/mesh/v1/cluster.js";

const version = 1;

/** This life of the process: random, never 0, the same on all its links. */
const incarnation = (randomBytes(4).readUInt32BE() || 1) >>> 0;

/** What both kinds of link have as options. Sizes are bytes. */
export interface CommonOptions {
  /**
   * The name of this process, for logs and for handlers that ask who calls: 1
   * to 255 letters, digits, `_`, `-` and `.`. Default host name and process id.
   */
  process?: string;
  /** The longest time for which this side sends nothing, in ms. Default 2000. */
  heartbeatIntervalMs?: number;
  /** How long opening a link may take, hello and acceptance included, in ms. Default 5000. */
  connectTimeoutMs?: number;
  /** The pause after the first failed try, in ms; it doubles with each, with jitter. Default 100. */
  backoffMinMs?: number;
  /** The longest pause, in ms. Default 3000. */
  backoffMaxMs?: number;
  /** How long close() waits for what is under way, in ms. Default 10000. */
  drainMs?: number;
  /** The longest gRPC message that this side takes, 65536 to 1048576. Default 262144. */
  maxBatchBytes?: number;
  /** The largest payload, of a request or a reply. Default 67108864. */
  maxMessageBytes?: number;
  /** The bound of large messages that have begun to arrive, by their total sizes. Default 67108864. */
  maxUnfinishedBytes?: number;
}

/** Options with every default in its place. */
export interface Settings extends Required<CommonOptions> {
  maxCalls: number;
}

const bounds: Record<Exclude<keyof Settings, "process">, [fallback: number, min: number, max: number]> = {
  heartbeatIntervalMs: [2000, 1, 3_600_000],
  connectTimeoutMs: [5000, 1, 3_600_000],
  backoffMinMs: [100, 1, 3_600_000],
  backoffMaxMs: [3000, 1, 3_600_000],
  drainMs: [10_000, 0, 2 ** 31 - 1],
  maxBatchBytes: [256 << 10, 64 << 10, 1 << 20],
  maxMessageBytes: [64 << 20, 1, 2 ** 31 - 1],
  maxUnfinishedBytes: [64 << 20, 64 << 10, Number.MAX_SAFE_INTEGER],
  maxCalls: [16384, 1, 2 ** 31 - 1],
};

/** Checks options and fills in the defaults. Throws RangeError or TypeError. */
export function settingsOf(options: CommonOptions & { maxCalls?: number }): Settings {
  const settings = { process: options.process ?? `${hostname()}-${process.pid}`.replace(/[^\w.-]/g, "-").slice(-255) } as Settings;
  if (!/^[\w.-]{1,255}$/.test(settings.process)) {
    throw new TypeError(`process ${JSON.stringify(settings.process)}: a process name has 1 to 255 letters, digits, "_", "-" and "."`);
  }
  for (const key of Object.keys(bounds) as (keyof typeof bounds)[]) {
    const [fallback, min, max] = bounds[key];
    const value = options[key] ?? fallback;
    if (!Number.isInteger(value) || value < min || value > max) {
      throw new RangeError(`${key} is ${value}; it is a whole number from ${min} to ${max}`);
    }
    settings[key] = value;
  }
  settings.backoffMaxMs = Math.max(settings.backoffMaxMs, settings.backoffMinMs);
  return settings;
}

/** Makes this process's hello. */
export function helloOf(s: Settings, node: string): Hello {
  return Hello.create({
    version,
    process: s.process,
    node,
    incarnation,
    heartbeatIntervalMs: s.heartbeatIntervalMs,
    maxBatchBytes: s.maxBatchBytes,
    maxMessageBytes: BigInt(s.maxMessageBytes),
    maxUnfinishedBytes: BigInt(s.maxUnfinishedBytes),
    maxCalls: s.maxCalls,
  });
}

/** The process at the other end of a link, and what it takes. */
export interface Peer {
  /** The name in its hello. */
  readonly process: string;
  /** Tells this life of the process from earlier ones. */
  readonly incarnation: number;
  /** Its bounds, in bytes; calls is a number of calls. */
  readonly limits: { readonly batch: number; readonly message: number; readonly unfinished: number; readonly calls: number };
  /** After this many ms without anything the peer is dead. */
  readonly silenceMs: number;
}

/** Reads a peer's hello. Throws an Error that says what is wrong with it. */
export function readHello(h: Hello): Peer {
  if (h.version !== version) throw new Error(`protocol version ${h.version} is not spoken here; ${version} is`);
  if (!/^[\w.-]{1,255}$/.test(h.process)) {
    throw new Error(`hello.process ${JSON.stringify(h.process.slice(0, 80))} is no process name`);
  }
  if (h.incarnation === 0) throw new Error("hello.incarnation is 0");
  const interval = Math.min(h.heartbeatIntervalMs || 2000, 3_600_000);
  return {
    process: h.process,
    incarnation: h.incarnation,
    limits: {
      batch: Math.min(Math.max(h.maxBatchBytes || 256 << 10, 64 << 10), 1 << 20),
      message: Number(h.maxMessageBytes) || 64 << 20,
      unfinished: Number(h.maxUnfinishedBytes) || 64 << 20,
      calls: h.maxCalls || 16384,
    },
    silenceMs: Math.max(6000, 3 * interval),
  };
}
