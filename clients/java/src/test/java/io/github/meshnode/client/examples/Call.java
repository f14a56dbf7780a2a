package io.github.meshnode.client.examples;

import io.github.meshnode.client.Link;
import io.github.meshnode.client.MeshException;
import io.github.meshnode.client.SendOptions;
import java.time.Duration;
import java.util.concurrent.CompletionException;

public final class Call {
  public static void main(String[] args) {
    String address = args.length > 0 ? args[0] : "127.0.0.1:2528";
    SendOptions within = SendOptions.DEFAULT.withTimeout(Duration.ofSeconds(5));
    // close() sends what waits, and lets calls finish.
    try (Link db = Link.builder(address).node("db").build()) {
      db.call("@sdb", "SET", Link.utf8("greeting=hello"), within)
          .thenCompose(last -> db.call("@sdb", "GET", Link.utf8("greeting"), within))
          .thenAccept(reply -> System.out.println(reply.text()))
          .join();
      db.push("@sdb", "PING", Link.utf8("one way")).join(); // it stands in the line of an open link
    } catch (CompletionException e) {
      if (!(e.getCause() instanceof MeshException m)) {
        throw e;
      }
      // not sent, rejected, maybe executed, handler failed
      System.err.println(m.verdict() + ": " + m.getMessage() + " (" + m.code() + ")");
    }
  }
}
