import { promisify } from "node:util";

import { credentials, Metadata } from "@grpc/grpc-js";

import { GetRequest, SimpleDBServiceClient } from "./gen/simpledb/v1/simpledb.js";

// An ordinary generated stub, one channel to the nearest gateway, one header.
const stub = new SimpleDBServiceClient(process.argv[2] ?? "127.0.0.1:2600", credentials.createInsecure());
const metadata = new Metadata();
metadata.set("mesh-to", "db@sdb");

const get = promisify(stub.get.bind(stub) as (r: GetRequest, m: Metadata, done: (err: Error | null, reply: { value?: string }) => void) => void);
const { value } = await get({ key: "greeting" }, metadata);
console.log(value ?? "greeting has no value");
stub.close();
