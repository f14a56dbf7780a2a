package io.github.meshnode.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.UnaryOperator;
import mesh.v1.Cluster.Failure;
import mesh.v1.Cluster.Frame;
import mesh.v1.Cluster.Hello;
import mesh.v1.Cluster.Reason;
import mesh.v1.Cluster.Registered;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(30)
class ServeTest {
  private Puppet puppet;
  private Serve serve;
  private final BlockingQueue<Throwable> errors = new LinkedBlockingQueue<>();

  @BeforeEach
  void open() throws IOException {
    puppet = new Puppet(Hello.newBuilder());
  }

  @AfterEach
  void close() {
    serve.closeAsync(Duration.ZERO).join();
    puppet.close();
  }

  private Puppet.Stream register(Handler handler, UnaryOperator<Serve.Builder> options, RegisterOptions name) throws Exception {
    serve = options.apply(Serve.builder(puppet.address()).onError(errors::add).backoffMin(Duration.ofMillis(10))).build();
    CompletableFuture<String> registered = serve.register("model", handler, name);
    Puppet.Stream s = puppet.accept();
    answer(s);
    assertEquals(":0000000070000001", registered.get());
    return s;
  }

  private static void answer(Puppet.Stream s) throws InterruptedException {
    Frame f = s.next(Frame.BodyCase.REGISTER);
    assertEquals("@model", f.getRegister().getName());
    s.say(Frame.newBuilder().setSession(f.getSession()).setRegistered(Registered.newBuilder().setHandle(0x70000001L)));
  }

  private static CompletableFuture<Reply> now(String text) {
    return CompletableFuture.completedFuture(Reply.of(text));
  }

  private static CompletableFuture<Reply> outcome(Request r) throws Exception {
    Metadata trailers = new Metadata();
    trailers.put(Metadata.Key.of("t", Metadata.ASCII_STRING_MARSHALLER), "x");
    switch (r.method()) {
      case "TEXT":
        return now("text");
      case "NOTHING":
        return null;
      case "STATUS":
        com.google.rpc.Status status =
            com.google.rpc.Status.newBuilder()
                .setCode(5)
                .setMessage("no such thing")
                .addDetails(Any.newBuilder().setTypeUrl("a/b").setValue(ByteString.copyFromUtf8("d")))
                .build();
        throw StatusProto.toStatusException(status, trailers);
      case "NESTED":
        throw new MeshException(Trouble.of(Verdict.NOT_SENT, Condition.CONNECT_FAILED, "down"), "@x", "");
      default:
        return CompletableFuture.failedFuture(new IllegalStateException("secret"));
    }
  }

  @Test
  void whateverAHandlerDoesReachesTheCaller() throws Exception {
    Puppet.Stream s = register(ServeTest::outcome, o -> o, RegisterOptions.DEFAULT);
    s.request(1, "TEXT", false);
    assertEquals("text", s.next(Frame.BodyCase.REPLY).getReply().getPayload().toStringUtf8());
    s.request(2, "NOTHING", false);
    assertTrue(s.next(Frame.BodyCase.REPLY).getReply().getPayload().isEmpty());
    s.request(3, "STATUS", false);
    Failure f = s.next(Frame.BodyCase.FAILURE).getFailure();
    assertEquals(Reason.REASON_HANDLER, f.getReason());
    assertEquals(5, f.getCode());
    assertEquals("no such thing", f.getMessage());
    assertEquals("a/b", f.getDetails(0).getTypeUrl());
    assertEquals(1, f.getTrailersCount());
    s.request(4, "NESTED", false);
    f = s.next(Frame.BodyCase.FAILURE).getFailure();
    assertEquals(Reason.REASON_HANDLER, f.getReason());
    assertEquals(Status.Code.UNKNOWN.value(), f.getCode());
    s.request(5, "PANIC", false);
    f = s.next(Frame.BodyCase.FAILURE).getFailure();
    assertEquals(Reason.REASON_PANIC, f.getReason());
    assertFalse(f.getMessage().contains("secret"));
    Throwable told = errors.poll(10, TimeUnit.SECONDS);
    assertTrue(told.getMessage().contains("secret"));
    String id = f.getMessage().substring(f.getMessage().lastIndexOf(' ') + 1);
    assertTrue(told.getMessage().contains(id), told.getMessage());
  }

  @Test
  void concurrencyOneRunsInOrder() throws Exception {
    AtomicInteger running = new AtomicInteger();
    List<String> order = Collections.synchronizedList(new ArrayList<>());
    Handler handler =
        r -> {
          assertEquals(1, running.incrementAndGet());
          order.add(r.method());
          Thread.sleep(1);
          running.decrementAndGet();
          return null;
        };
    Puppet.Stream s = register(handler, o -> o, RegisterOptions.DEFAULT.withConcurrency(1));
    List<String> want = new ArrayList<>();
    for (int i = 1; i <= 30; i++) {
      s.request(i, "n" + i, i % 3 == 1);
      want.add("n" + i);
    }
    for (int i = 1; i <= 20; i++) {
      assertEquals(Frame.BodyCase.REPLY, s.next().getBodyCase());
    }
    assertEquals(want, order);
  }

  @Test
  void pushesBeyondTheBoundStopTheReading() throws Exception {
    BlockingQueue<CompletableFuture<Reply>> waiting = new LinkedBlockingQueue<>();
    AtomicInteger ran = new AtomicInteger();
    Handler handler =
        r -> {
          ran.incrementAndGet();
          CompletableFuture<Reply> f = r.isPush() ? new CompletableFuture<>() : now("answer");
          if (r.isPush()) {
            waiting.add(f);
          }
          return f;
        };
    Puppet.Stream s = register(handler, o -> o.maxPushes(3).heartbeatInterval(Duration.ofMillis(200)), RegisterOptions.DEFAULT);
    for (int i = 1; i <= 10; i++) {
      s.request(i, "P", true);
    }
    s.request(11, "C", false);
    Frame f = s.frames.poll(10, TimeUnit.SECONDS);
    while (!f.getHeartbeat().getReadingStopped()) {
      f = s.frames.poll(10, TimeUnit.SECONDS);
    }
    assertTrue(ran.get() <= 3, ran + " ran");
    for (int i = 0; i < 10; i++) {
      waiting.poll(10, TimeUnit.SECONDS).complete(null);
    }
    assertEquals("answer", s.next(Frame.BodyCase.REPLY).getReply().getPayload().toStringUtf8());
  }

  @Test
  void aNameThatTheNodeRefusesIsRejected() throws Exception {
    serve = Serve.builder(puppet.address()).build();
    CompletableFuture<String> registered = serve.register("@model", r -> now(""));
    assertTrue(LinkTest.failure(serve.register("@model", r -> now(""))).getMessage().contains("registered here already"));
    assertEquals(Condition.INVALID_NAME, LinkTest.failure(serve.register("@a\nb", r -> now(""))).condition());
    Puppet.Stream s = puppet.accept();
    Failure taken = Failure.newBuilder().setReason(Reason.REASON_NAME_TAKEN).setCode(6).setMessage("taken").build();
    s.say(Frame.newBuilder().setSession(s.next(Frame.BodyCase.REGISTER).getSession()).setFailure(taken));
    MeshException e = LinkTest.failure(registered);
    assertEquals(Verdict.REJECTED, e.verdict());
    assertEquals(Condition.NAME_TAKEN, e.condition());
    assertEquals(Status.Code.ALREADY_EXISTS, e.code());
  }

  @Test
  void aServeThatCannotReachItsNodeSaysSo() throws Exception {
    serve = Serve.builder("127.0.0.1:1").build();
    MeshException e = LinkTest.failure(serve.register("@model", r -> now("")));
    assertEquals(Verdict.NOT_SENT, e.verdict());
    assertEquals(Condition.CONNECT_FAILED, e.condition());
    CompletableFuture<String> patient = serve.register("@model", r -> now(""), RegisterOptions.DEFAULT.withWaitUp());
    serve.close();
    assertEquals(Condition.CLOSED, LinkTest.failure(patient).condition());
    assertEquals(Condition.CLOSED, LinkTest.failure(serve.register("@model", r -> now(""))).condition());
  }

  @Test
  void afterABreakNamesAreRegisteredAgain() throws Exception {
    CompletableFuture<Throwable> cancelled = new CompletableFuture<>();
    Handler handler =
        r -> {
          CompletableFuture<Reply> reply = new CompletableFuture<>();
          r.context().addListener(c -> cancelled.complete(c.cancellationCause()), Runnable::run);
          return reply;
        };
    Puppet.Stream s = register(handler, o -> o, RegisterOptions.DEFAULT);
    s.request(1, "WAIT", false);
    s.say(Frame.newBuilder().setSession(9));
    assertEquals(Reason.REASON_INVALID_REQUEST, s.next(Frame.BodyCase.FAILURE).getFailure().getReason());
    s.fail(Status.UNAVAILABLE.withDescription("the node is leaving").asException());
    answer(puppet.accept());
    assertTrue(cancelled.get(10, TimeUnit.SECONDS).getMessage().contains("the node is leaving"));
  }

  @Test
  void closeSaysGoawayAnswersAndWaits() throws Exception {
    BlockingQueue<CompletableFuture<Reply>> waiting = new LinkedBlockingQueue<>();
    Handler handler =
        r -> {
          CompletableFuture<Reply> reply = new CompletableFuture<>();
          waiting.add(reply);
          return reply;
        };
    Puppet.Stream s = register(handler, o -> o, RegisterOptions.DEFAULT);
    s.request(4, "WAIT", false);
    CompletableFuture<Reply> reply = waiting.poll(10, TimeUnit.SECONDS);
    CompletableFuture<Void> closed = serve.closeAsync();
    assertEquals(4, s.next(Frame.BodyCase.GOAWAY).getGoaway().getLastSession());
    s.request(5, "NOT TAKEN", false);
    reply.complete(Reply.of("late"));
    assertEquals("late", s.next(Frame.BodyCase.REPLY).getReply().getPayload().toStringUtf8());
    s.awaitHalfClose();
    assertFalse(closed.isDone());
    s.finish();
    closed.get();
    assertTrue(s.frames.stream().allMatch(Frame::hasHeartbeat));
  }
}
