package io.github.meshnode.client.examples;

import io.github.meshnode.client.Reply;
import io.github.meshnode.client.Request;
import io.github.meshnode.client.Serve;
import io.grpc.Status;
import java.nio.charset.StandardCharsets;
import java.util.Locale;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;

public final class Answer {
  public static void main(String[] args) throws InterruptedException {
    Serve node = Serve.builder(args.length > 0 ? args[0] : "127.0.0.1:2528").build();
    Runtime.getRuntime().addShutdownHook(new Thread(node::close)); // says goaway, lets requests finish
    node.register("@model", Answer::handle).join();
    System.out.println("@model is registered");
    Thread.currentThread().join(); // until SIGTERM
  }

  static CompletionStage<Reply> handle(Request request) throws Exception {
    String text = new String(request.payload(), StandardCharsets.UTF_8);
    switch (request.method()) {
      case "UPPER":
        return CompletableFuture.completedFuture(Reply.of(text.toUpperCase(Locale.ROOT)));
      case "SLEEP": // request.context() is cancelled when nobody waits any more
        return CompletableFuture.supplyAsync(() -> Reply.of("slept"), CompletableFuture.delayedExecutor(Long.parseLong(text), TimeUnit.MILLISECONDS));
      default:
        throw Status.UNIMPLEMENTED.withDescription("there is no " + request.method() + ": there are UPPER and SLEEP").asException();
    }
  }
}
