export { type Condition, MeshError, type MeshErrorFacts, type Verdict } from "./errors.js";
export type { Any } from "./gen/google/protobuf/any.js";
export type { CommonOptions, Peer } from "./hello.js";
export { type Handler, type Incoming, type Outcome, StatusError } from "./incoming.js";
export type { LinkOptions, LinkState, LinkStats, Reply, SendOptions } from "./api.js";
export { Link } from "./link.js";
export { type RegisterOptions, Serve, type ServeOptions } from "./serve.js";
export type { DialOptions } from "./wire.js";
