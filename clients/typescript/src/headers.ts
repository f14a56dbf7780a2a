import { Metadata } from "@grpc/grpc-js";

import type { Header } from "./gen/mesh/v1/cluster.js";

/** The most that the headers of a message have together, each with 32 bytes beside its text. */
export const maxHeaderBytes = 8 << 10;

/** What headers count against their bound. */
export function headerBytes(headers: readonly Header[]): number {
  return headers.reduce((sum, h) => sum + Buffer.byteLength(h.key) + h.value.length + 32, 0);
}

/** Turns gRPC metadata into headers. gRPC's own keys (`grpc-...`) stay behind. */
export function fromMetadata(metadata: Metadata | undefined): Header[] {
  const headers: Header[] = [];
  for (const key of Object.keys(metadata?.getMap() ?? {})) {
    if (key.startsWith("grpc-")) continue;
    for (const value of metadata!.get(key)) {
      headers.push({ key, value: typeof value === "string" ? Buffer.from(value) : value });
    }
  }
  return headers;
}

/** Turns headers into gRPC metadata. What no metadata can hold is left out. */
export function toMetadata(headers: readonly Header[]): Metadata {
  const metadata = new Metadata();
  for (const { key, value } of headers) {
    try {
      metadata.add(key, key.toLowerCase().endsWith("-bin") ? value : value.toString());
    } catch {
      // A peer said what gRPC does not allow: an empty key, a control character.
    }
  }
  return metadata;
}
