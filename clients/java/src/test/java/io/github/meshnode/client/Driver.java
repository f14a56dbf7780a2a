package io.github.meshnode.client;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.MessageLite;
import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.protobuf.StatusProto;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.Base64;
import java.util.HexFormat;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Consumer;
import mesh.v1.Cluster;

/**
 * The driver of the conformance kit (test/conformance/README.md): it reads ops as JSON lines from stdin, carries them
 * out, and writes answers and events to stdout. It knows no case.
 */
public final class Driver {
  private final Map<String, Link> links = new ConcurrentHashMap<>();
  private final Map<String, Serve> serves = new ConcurrentHashMap<>();
  private final Map<Long, Context.CancellableContext> calls = new ConcurrentHashMap<>();
  private final Map<Long, Consumer<JsonObject>> requests = new ConcurrentHashMap<>();
  private final AtomicLong lastRequest = new AtomicLong();
  private final Gson gson = new Gson();
  private final PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);

  /** Reads ops until stdin ends. */
  public static void main(String[] args) throws IOException {
    new Driver().read();
    System.exit(0);
  }

  private void read() throws IOException {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      JsonObject op = JsonParser.parseString(line).getAsJsonObject();
      CompletableFuture<JsonObject> answer;
      try {
        answer = run(op);
      } catch (RuntimeException | InvalidProtocolBufferException e) {
        answer = CompletableFuture.failedFuture(e);
      }
      answer.whenComplete((fields, err) -> answer(op, fields, err));
    }
  }

  private void answer(JsonObject op, JsonObject fields, Throwable err) {
    JsonObject line = fields == null ? new JsonObject() : fields;
    line.add("id", op.get("id"));
    line.addProperty("ok", err == null);
    if (err != null) {
      line.add("error", failed(err));
    }
    say(line);
  }

  private synchronized void say(JsonObject line) {
    out.print(gson.toJson(line) + "\n");
    out.flush();
  }

  private CompletableFuture<JsonObject> run(JsonObject op) throws InvalidProtocolBufferException {
    switch (op.get("op").getAsString()) {
      case "info":
        return done(info());
      case "link":
        links.put(text(op, "link"), options(Link.builder(text(op, "address")).node(text(op, "node")), op).build());
        return done(new JsonObject());
      case "call":
        return call(op);
      case "push":
        return link(op).push(text(op, "target"), text(op, "method"), payload(op), sendOptions(op)).thenApply(none -> new JsonObject());
      case "query":
        return link(op).query(text(op, "name"), sendOptions(op)).thenApply(Driver::handle);
      case "cancel":
        Context.CancellableContext context = calls.get(op.get("call").getAsLong());
        if (context != null) {
          context.cancel(null);
        }
        return done(new JsonObject());
      case "recode":
        return done(recode(op));
      default:
        return serving(op);
    }
  }

  private CompletableFuture<JsonObject> serving(JsonObject op) {
    switch (op.get("op").getAsString()) {
      case "serve":
        Serve.Builder b = options(Serve.builder(text(op, "address")).onError(Driver::note), op);
        number(op, "max_calls", n -> b.maxCalls((int) n));
        serves.put(text(op, "serve"), b.build());
        return done(new JsonObject());
      case "register":
        String serve = text(op, "serve");
        RegisterOptions o = RegisterOptions.DEFAULT;
        boolean shared = op.has("shared") && op.get("shared").getAsBoolean();
        return serves.get(serve).register(text(op, "name"), r -> handle(serve, r), shared ? o.withShared() : o).thenApply(Driver::handle);
      case "unregister":
        return serves.get(text(op, "serve")).unregister(text(op, "name")).thenApply(none -> new JsonObject());
      case "answer":
        Consumer<JsonObject> request = requests.remove(op.get("request").getAsLong());
        if (request != null) {
          request.accept(op);
        }
        return done(new JsonObject());
      case "close":
        Duration within = op.has("timeout_ms") && op.get("timeout_ms").getAsLong() > 0 ? Duration.ofMillis(op.get("timeout_ms").getAsLong()) : Duration.ofSeconds(10);
        CompletableFuture<Void> closed = op.has("serve") ? serves.get(text(op, "serve")).closeAsync(within) : link(op).closeAsync(within);
        return closed.thenApply(none -> new JsonObject());
      default:
        throw new IllegalArgumentException("unknown op " + op.get("op"));
    }
  }

  private static void note(Throwable t) {
    System.err.println(t);
  }

  private static CompletableFuture<JsonObject> done(JsonObject fields) {
    return CompletableFuture.completedFuture(fields);
  }

  private JsonObject info() {
    JsonObject o = new JsonObject();
    o.addProperty("language", "java");
    o.addProperty("helper", "meshnode-client " + System.getProperty("helper.version", "0.1.0"));
    o.addProperty("grpc", "grpc-java " + io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder.class.getPackage().getImplementationVersion());
    JsonArray features = new JsonArray();
    features.add("link");
    features.add("serve");
    features.add("recode");
    o.add("features", features);
    return o;
  }

  private Link link(JsonObject op) {
    Link link = links.get(text(op, "link"));
    if (link == null) {
      throw new IllegalArgumentException("no link " + op.get("link"));
    }
    return link;
  }

  /** The helper's options of an op: those that are left out or 0 are its defaults. */
  private static <B extends Options<B>> B options(B b, JsonObject op) {
    if (op.has("process") && !text(op, "process").isEmpty()) {
      b.process(text(op, "process"));
    }
    number(op, "heartbeat_interval_ms", n -> b.heartbeatInterval(Duration.ofMillis(n)));
    number(op, "max_batch_bytes", n -> b.maxBatchBytes((int) n));
    number(op, "max_message_bytes", n -> b.maxMessageBytes((int) n));
    number(op, "max_unfinished_bytes", b::maxUnfinishedBytes);
    number(op, "connect_timeout_ms", n -> b.connectTimeout(Duration.ofMillis(n)));
    number(op, "backoff_min_ms", n -> b.backoffMin(Duration.ofMillis(n)));
    number(op, "backoff_max_ms", n -> b.backoffMax(Duration.ofMillis(n)));
    return b;
  }

  private static void number(JsonObject op, String name, java.util.function.LongConsumer set) {
    if (op.has(name) && op.get(name).getAsLong() != 0) {
      set.accept(op.get(name).getAsLong());
    }
  }

  private static String text(JsonObject op, String name) {
    return op.has(name) ? op.get(name).getAsString() : "";
  }

  private CompletableFuture<JsonObject> call(JsonObject op) {
    long id = op.get("id").getAsLong();
    Context.CancellableContext context = Context.ROOT.withCancellation();
    calls.put(id, context);
    return link(op)
        .call(text(op, "target"), text(op, "method"), payload(op), sendOptions(op).withContext(context))
        .whenComplete((reply, err) -> calls.remove(id))
        .thenApply(reply -> shown(reply.payload(), reply.headers(), reply.trailers()));
  }

  private static SendOptions sendOptions(JsonObject op) {
    SendOptions o = SendOptions.DEFAULT.withHeaders(metadata(op.get("headers"))).withTraceTag(text(op, "trace_tag"));
    if (op.has("wait_up") && op.get("wait_up").getAsBoolean()) {
      o = o.withWaitUp();
    }
    return op.has("timeout_ms") ? o.withTimeout(Duration.ofMillis(op.get("timeout_ms").getAsLong())) : o;
  }

  private static byte[] payload(JsonObject op) {
    if (op.has("data")) {
      return Base64.getDecoder().decode(text(op, "data"));
    }
    if (!op.has("fill")) {
      return new byte[0];
    }
    JsonObject fill = op.getAsJsonObject("fill");
    byte[] bytes = new byte[fill.get("size").getAsInt()];
    int seed = fill.get("seed").getAsInt();
    for (int i = 0; i < bytes.length; i++) {
      bytes[i] = (byte) (i * 31 + (i >> 8) * 7 + seed);
    }
    return bytes;
  }

  private static JsonObject shown(byte[] payload, Metadata headers, Metadata trailers) {
    JsonObject o = new JsonObject();
    o.addProperty("size", payload.length);
    try {
      o.addProperty("sha256", HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(payload)));
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException(e);
    }
    if (payload.length <= 4096) {
      o.addProperty("data", Base64.getEncoder().encodeToString(payload));
    }
    o.add("headers", pairs(headers));
    if (trailers != null) {
      o.add("trailers", pairs(trailers));
    }
    return o;
  }

  private static Metadata metadata(JsonElement pairs) {
    Metadata metadata = new Metadata();
    if (pairs == null) {
      return metadata;
    }
    for (JsonElement pair : pairs.getAsJsonArray()) {
      String key = pair.getAsJsonArray().get(0).getAsString();
      String value = pair.getAsJsonArray().get(1).getAsString();
      if (key.endsWith("-bin")) {
        metadata.put(Metadata.Key.of(key, Metadata.BINARY_BYTE_MARSHALLER), Base64.getDecoder().decode(value));
      } else {
        metadata.put(Metadata.Key.of(key, Metadata.ASCII_STRING_MARSHALLER), value);
      }
    }
    return metadata;
  }

  private static JsonArray pairs(Metadata metadata) {
    JsonArray all = new JsonArray();
    for (Cluster.Header h : Headers.of(metadata)) {
      JsonArray pair = new JsonArray();
      pair.add(h.getKey());
      pair.add(h.getKey().endsWith("-bin") ? Base64.getEncoder().encodeToString(h.getValue().toByteArray()) : h.getValue().toStringUtf8());
      all.add(pair);
    }
    return all;
  }

  private static JsonObject handle(String target) {
    JsonObject o = new JsonObject();
    o.addProperty("handle", target.substring(1));
    return o;
  }

  private JsonObject failed(Throwable thrown) {
    Throwable t = thrown instanceof CompletionException && thrown.getCause() != null ? thrown.getCause() : thrown;
    JsonObject o = new JsonObject();
    if (!(t instanceof MeshException e)) {
      StringWriter trace = new StringWriter();
      t.printStackTrace(new PrintWriter(trace));
      o.addProperty("verdict", "");
      o.addProperty("message", trace.toString());
      return o;
    }
    o.addProperty("verdict", e.verdict().toString());
    o.addProperty("reason", e.condition() == null ? "" : e.condition().name());
    o.addProperty("code", e.code().value());
    o.addProperty("message", e.getMessage());
    JsonArray details = new JsonArray();
    for (Any any : e.details()) {
      JsonObject d = new JsonObject();
      d.addProperty("type_url", any.getTypeUrl());
      d.addProperty("value", Base64.getEncoder().encodeToString(any.getValue().toByteArray()));
      details.add(d);
    }
    o.add("details", details);
    o.add("headers", pairs(e.headers()));
    o.add("trailers", pairs(e.trailers()));
    return o;
  }

  /** The one handler of all names: it says the event and waits for its answer. */
  private CompletionStage<Reply> handle(String serve, Request r) {
    long number = lastRequest.incrementAndGet();
    CompletableFuture<Reply> reply = new CompletableFuture<>();
    requests.put(number, answer -> answered(answer, r, reply));
    JsonObject event = shown(r.payload(), r.headers(), null);
    event.addProperty("event", "request");
    event.addProperty("serve", serve);
    event.addProperty("request", number);
    event.addProperty("name", r.name());
    event.addProperty("method", r.method());
    event.addProperty("push", r.isPush());
    event.addProperty("trace_tag", r.traceTag());
    r.timeLeft().ifPresent(left -> event.addProperty("time_left_ms", left.toMillis()));
    say(event);
    r.context()
        .addListener(
            context -> {
              if (requests.remove(number) != null) {
                JsonObject cancelled = new JsonObject();
                cancelled.addProperty("event", "cancelled");
                cancelled.addProperty("request", number);
                say(cancelled);
                reply.completeExceptionally(context.cancellationCause());
              }
            },
            Runnable::run);
    return reply;
  }

  private static void answered(JsonObject answer, Request r, CompletableFuture<Reply> reply) {
    if (answer.has("panic")) {
      reply.completeExceptionally(new IllegalStateException(text(answer, "panic")));
      return;
    }
    Metadata headers = metadata(answer.get("headers"));
    Metadata trailers = metadata(answer.get("trailers"));
    if (!answer.has("error")) {
      reply.complete(new Reply(payload(answer), headers, trailers));
      return;
    }
    JsonObject error = answer.getAsJsonObject("error");
    com.google.rpc.Status.Builder status = com.google.rpc.Status.newBuilder().setCode(error.get("code").getAsInt()).setMessage(text(error, "message"));
    if (error.has("details")) {
      for (JsonElement d : error.getAsJsonArray("details")) {
        ByteString value = ByteString.copyFrom(Base64.getDecoder().decode(text(d.getAsJsonObject(), "value")));
        status.addDetails(Any.newBuilder().setTypeUrl(text(d.getAsJsonObject(), "type_url")).setValue(value));
      }
    }
    r.failureHeaders().merge(headers);
    reply.completeExceptionally(StatusProto.toStatusException(status.build(), trailers));
  }


  private static JsonObject recode(JsonObject op) throws InvalidProtocolBufferException {
    byte[] data = Base64.getDecoder().decode(text(op, "data"));
    MessageLite message;
    switch (text(op, "message")) {
      case "LinkRequest":
        message = Cluster.LinkRequest.parseFrom(data);
        break;
      case "LinkResponse":
        message = Cluster.LinkResponse.parseFrom(data);
        break;
      case "Frame":
        message = Cluster.Frame.parseFrom(data);
        break;
      default:
        throw new IllegalArgumentException("unknown message " + op.get("message"));
    }
    JsonObject o = new JsonObject();
    o.addProperty("data", Base64.getEncoder().encodeToString(message.toByteArray()));
    return o;
  }
}
