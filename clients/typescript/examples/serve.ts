import { status } from "@grpc/grpc-js";
import { Serve, StatusError } from "@meshnode/client";

const node = new Serve(process.argv[2] ?? "127.0.0.1:2528");
await node.register("@model", async (request) => {
  switch (request.method) {
    case "UPPER":
      return request.payload.toString().toUpperCase();
    case "SLEEP":
      await new Promise((resolve, reject) => {
        setTimeout(resolve, Number(request.payload));
        request.signal.addEventListener("abort", () => reject(request.signal.reason)); // nobody waits any more
      });
      return "slept";
    default:
      throw new StatusError(status.UNIMPLEMENTED, `there is no ${request.method}: there are UPPER and SLEEP`);
  }
});
console.log("@model is registered");

process.once("SIGTERM", () => void node.close()); // says goaway, lets requests finish
process.once("SIGINT", () => void node.close());
