package io.github.meshnode.client;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.ByteString;
import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import mesh.v1.Cluster.Failure;
import mesh.v1.Cluster.Frame;
import mesh.v1.Cluster.Goaway;
import mesh.v1.Cluster.Hello;
import mesh.v1.Cluster.Reason;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

@Timeout(30)
class LinkTest {
  private static final byte[] NOTHING = {};
  private static final Metadata.Key<String> K = Metadata.Key.of("k", Metadata.ASCII_STRING_MARSHALLER);

  private Puppet puppet;
  private Link link;

  @BeforeEach
  void open() throws IOException {
    puppet = new Puppet(Hello.newBuilder());
    link = Link.builder(puppet.address()).node("db").process("tester").build();
  }

  @AfterEach
  void close() {
    link.closeAsync(Duration.ZERO).join();
    puppet.close();
  }

  static MeshException failure(CompletableFuture<?> future) throws InterruptedException {
    ExecutionException e = assertThrows(ExecutionException.class, () -> future.get(10, TimeUnit.SECONDS));
    return assertInstanceOf(MeshException.class, e.getCause());
  }

  private static void is(MeshException e, Verdict verdict, Condition condition) {
    assertEquals(verdict, e.verdict(), e.getMessage());
    assertEquals(condition, e.condition(), e.getMessage());
    assertEquals(condition.code(), e.code());
  }

  @Test
  void callHasTheHandlersReply() throws Exception {
    Metadata headers = new Metadata();
    headers.put(K, "1");
    headers.put(K, "2");
    headers.put(Metadata.Key.of("raw-bin", Metadata.BINARY_BYTE_MARSHALLER), new byte[] {0, -1});
    SendOptions o = SendOptions.DEFAULT.withHeaders(headers).withTraceTag("tag").withTimeout(Duration.ofSeconds(1));
    CompletableFuture<Reply> call = link.call("@sdb", "GET", Link.utf8("key"), o);
    Puppet.Stream s = puppet.accept();
    assertEquals("tester", s.hello.getProcess());
    assertEquals("db", s.hello.getNode());
    Frame f = s.next(Frame.BodyCase.REQUEST);
    assertEquals("@sdb", f.getRequest().getName());
    assertEquals("tag", f.getRequest().getTraceTag());
    assertEquals("key", f.getRequest().getPayload().toStringUtf8());
    assertTrue(f.getRequest().getTimeLeftUs() <= 1_000_000 && f.getRequest().getTimeLeftUs() > 300_000);
    List<String> sent = f.getRequest().getHeadersList().stream().map(h -> h.getKey() + h.getValue().size()).sorted().toList();
    assertEquals(List.of("k1", "k1", "raw-bin2"), sent);
    s.reply(f.getSession(), "value");
    assertEquals("value", call.get().text());
  }

  @ParameterizedTest
  @CsvSource({
    "HANDLER,5,HANDLER_FAILED,NOT_FOUND,",
    "UNSPECIFIED,0,HANDLER_FAILED,UNKNOWN,",
    "HANDLER,99,HANDLER_FAILED,UNKNOWN,",
    "PANIC,13,HANDLER_FAILED,INTERNAL,PANIC",
    "UNKNOWN_METHOD,12,REJECTED,UNIMPLEMENTED,UNKNOWN_METHOD",
    "NAME_NOT_FOUND,5,REJECTED,NOT_FOUND,NAME_NOT_FOUND",
    "STALE_HANDLE,9,REJECTED,FAILED_PRECONDITION,STALE_HANDLE",
    "OVERLOADED,8,REJECTED,RESOURCE_EXHAUSTED,OVERLOADED",
    "DRAINING,14,REJECTED,UNAVAILABLE,DRAINING",
    "REPLY_TOO_LARGE,11,HANDLER_FAILED,OUT_OF_RANGE,REPLY_TOO_LARGE",
    "EXPIRED,4,REJECTED,DEADLINE_EXCEEDED,EXPIRED",
    "CANCELLED,1,MAYBE_EXECUTED,CANCELLED,CANCELLED",
    "LINK_BROKEN,10,MAYBE_EXECUTED,ABORTED,LINK_BROKEN",
    "NOT_PERMITTED,7,REJECTED,PERMISSION_DENIED,NOT_PERMITTED",
    "LOOP,9,REJECTED,FAILED_PRECONDITION,LOOP",
  })
  void eachFailureHasItsVerdict(String reason, int sent, Verdict verdict, Status.Code code, Condition condition) throws Exception {
    CompletableFuture<Reply> call = link.call("@sdb", "GET", NOTHING);
    Puppet.Stream s = puppet.accept();
    Failure failure = Failure.newBuilder().setReason(Reason.valueOf("REASON_" + reason)).setCode(sent).setMessage("why").build();
    s.say(Frame.newBuilder().setSession(s.next().getSession()).setFailure(failure));
    MeshException e = failure(call);
    assertEquals(verdict, e.verdict());
    assertEquals(code, e.code());
    assertEquals(condition, e.condition());
    assertEquals("why", e.getMessage());
    assertEquals("@sdb", e.target());
    assertEquals("GET", e.method());
    StatusRuntimeException status = e.toStatusRuntimeException();
    assertEquals(code, status.getStatus().getCode());
    assertEquals("why", status.getStatus().getDescription());
  }

  @ParameterizedTest
  @ValueSource(strings = {"", "db", "127.0.0.1", "127.0.0.1:70000", "http://127.0.0.1:1", "[1.2.3]", ":1", "unix:/tmp/x"})
  void badAddressesAreRefused(String address) {
    IllegalArgumentException e = assertThrows(IllegalArgumentException.class, () -> Link.builder(address));
    assertTrue(e.getMessage().contains("write host:port"), e.getMessage());
  }

  @Test
  void badOptionsAreRefused() {
    Link.Builder far = Link.builder("192.0.2.1:1");
    assertTrue(assertThrows(IllegalArgumentException.class, far::build).getMessage().contains("insecure()"));
    far.insecure().build().close();
    Link.Builder b = Link.builder("127.0.0.1:1");
    assertThrows(IllegalArgumentException.class, () -> b.maxBatchBytes(1));
    assertThrows(IllegalArgumentException.class, () -> b.process("a b"));
    assertThrows(IllegalArgumentException.class, () -> b.node("__x"));
    assertThrows(IllegalArgumentException.class, () -> b.heartbeatInterval(Duration.ZERO));
    assertThrows(IllegalArgumentException.class, () -> SendOptions.DEFAULT.withTimeout(Duration.ofMillis(-1)));
  }

  @Test
  void badMessagesAreNotSent() throws Exception {
    Metadata big = new Metadata();
    big.put(K, "x".repeat(9000));
    is(failure(link.call("sdb", "GET", NOTHING)), Verdict.NOT_SENT, Condition.INVALID_TARGET);
    MeshException node = failure(link.call("db@sdb", "GET", NOTHING));
    assertTrue(node.getMessage().contains("leave out the node"), node.getMessage());
    is(failure(link.call("@", "GET", NOTHING)), Verdict.NOT_SENT, Condition.INVALID_TARGET);
    is(failure(link.call(":12", "GET", NOTHING)), Verdict.NOT_SENT, Condition.INVALID_TARGET);
    is(failure(link.call("@a\nb", "GET", NOTHING)), Verdict.NOT_SENT, Condition.INVALID_NAME);
    is(failure(link.call("@" + "x".repeat(255), "GET", NOTHING)), Verdict.NOT_SENT, Condition.INVALID_NAME);
    is(failure(link.call("@\ud800", "GET", NOTHING)), Verdict.NOT_SENT, Condition.INVALID_NAME);
    is(failure(link.push("@sdb", "x".repeat(1025), NOTHING)), Verdict.NOT_SENT, Condition.INVALID_REQUEST);
    is(failure(link.call("@sdb", "GET", NOTHING, SendOptions.DEFAULT.withHeaders(big))), Verdict.NOT_SENT, Condition.INVALID_REQUEST);
    assertNull(link.peer());
  }

  @Test
  void aContextOrAFutureGivesACallUp() throws Exception {
    link.connect(SendOptions.DEFAULT).get();
    Puppet.Stream s = puppet.accept();
    Context.CancellableContext context = Context.current().withCancellation();
    CompletableFuture<Reply> call = link.call("@sdb", "GET", NOTHING, SendOptions.DEFAULT.withContext(context));
    long session = s.next(Frame.BodyCase.REQUEST).getSession();
    context.cancel(null);
    is(failure(call), Verdict.MAYBE_EXECUTED, Condition.CANCELLED);
    assertEquals(session, s.next(Frame.BodyCase.CANCEL).getSession());
    is(failure(link.call("@sdb", "GET", NOTHING, SendOptions.DEFAULT.withContext(context))), Verdict.NOT_SENT, Condition.CANCELLED);
    CompletableFuture<Reply> other = link.call("@sdb", "GET", NOTHING);
    session = s.next(Frame.BodyCase.REQUEST).getSession();
    other.cancel(true);
    assertEquals(session, s.next(Frame.BodyCase.CANCEL).getSession());
    // The deadline of the context in which a call is made counts too.
    CompletableFuture<Reply> timed =
        Context.current()
            .withDeadlineAfter(200, TimeUnit.MILLISECONDS, java.util.concurrent.Executors.newSingleThreadScheduledExecutor())
            .call(() -> link.call("@sdb", "GET", NOTHING));
    assertTrue(s.next(Frame.BodyCase.REQUEST).getRequest().getTimeLeftUs() <= 200_000);
    is(failure(timed), Verdict.MAYBE_EXECUTED, Condition.DEADLINE_EXCEEDED);
  }

  @Test
  void theLineIsBounded() throws Exception {
    String address = puppet.address();
    puppet.close();
    Link bounded =
        Link.builder(address).lineCalls(1).linePushBytes(1).sendWait(Duration.ofMillis(30)).backoffMin(Duration.ofSeconds(5)).build();
    SendOptions patient = SendOptions.DEFAULT.withWaitUp();
    CompletableFuture<Reply> waiting = bounded.call("@sdb", "GET", NOTHING, patient.withTimeout(Duration.ofMillis(300)));
    is(failure(bounded.call("@sdb", "GET", NOTHING, patient)), Verdict.NOT_SENT, Condition.OVERLOADED);
    CompletableFuture<Void> push = bounded.push("@sdb", "PING", NOTHING, patient.withTimeout(Duration.ofMillis(300)));
    is(failure(bounded.push("@sdb", "PING", NOTHING, patient)), Verdict.NOT_SENT, Condition.OVERLOADED);
    is(failure(waiting), Verdict.NOT_SENT, Condition.DEADLINE_EXCEEDED);
    assertTrue(failure(push).getMessage().contains("the last try: connect"));
    bounded.close();
  }

  @Test
  void withoutWaitUpACallFailsWithWhyTheNodeCannotBeReached() throws Exception {
    try (Link nobody = Link.builder("127.0.0.1:1").node("db").build()) {
      MeshException e = failure(nobody.call("@sdb", "GET", NOTHING));
      is(e, Verdict.NOT_SENT, Condition.CONNECT_FAILED);
      assertTrue(e.getMessage().matches("connect \\[db] \\(127\\.0\\.0\\.1:1\\): .*refused.*"), e.getMessage());
      is(failure(nobody.call("@sdb", "GET", NOTHING, SendOptions.DEFAULT.withNoWait())), Verdict.NOT_SENT, Condition.CONNECT_FAILED);
    }
  }

  @Test
  void aTokenThatCannotBeHadFailsTheLink() throws Exception {
    Link.Builder b = Link.builder(puppet.address());
    assertThrows(IllegalArgumentException.class, () -> b.token("secret\n"));
    b.token(
        () -> {
          throw new IllegalStateException("no token file");
        });
    try (Link l = b.build()) {
      MeshException e = failure(l.call("@sdb", "GET", NOTHING));
      is(e, Verdict.NOT_SENT, Condition.CONNECT_FAILED);
      assertTrue(e.getMessage().contains("no token file"), e.getMessage());
    }
  }

  @Test
  void whatAGoawayDidNotTakeIsSentAgain() throws Exception {
    BlockingQueue<LinkState.Kind> states = new LinkedBlockingQueue<>();
    try (Link l = Link.builder(puppet.address()).executor(r -> new Thread(r).start()).onState(s -> states.add(s.kind())).build()) {
      CompletableFuture<Reply> one = l.call("@sdb", "ONE", NOTHING);
      CompletableFuture<Reply> two = l.call("@sdb", "TWO", NOTHING);
      l.push("@sdb", "LOST", NOTHING).get();
      Puppet.Stream s = puppet.accept();
      for (int i = 0; i < 3; i++) {
        s.next(Frame.BodyCase.REQUEST);
      }
      s.say(Frame.newBuilder().setGoaway(Goaway.newBuilder().setLastSession(1).setMessage("moving")));
      Puppet.Stream next = puppet.accept();
      Frame again = next.next(Frame.BodyCase.REQUEST);
      assertEquals("TWO", again.getRequest().getMethod());
      next.reply(again.getSession(), "second");
      s.reply(1, "first");
      assertEquals("first", one.get().text());
      assertEquals("second", two.get().text());
      s.awaitHalfClose(); // when the last answer came
      s.finish();
      assertEquals(1, l.pushesLost());
      new Thread(
              () -> {
                try {
                  next.awaitHalfClose();
                  next.finish();
                } catch (InterruptedException e) {
                  Thread.currentThread().interrupt();
                }
              })
          .start();
    }
    assertTrue(states.contains(LinkState.Kind.LEAVING));
  }

  @Test
  void aPeerThatBreaksTheProtocolEndsTheLinkAndNothingElse() throws Exception {
    CompletableFuture<Reply> call = link.call("@sdb", "GET", NOTHING);
    Puppet.Stream s = puppet.accept();
    s.next(Frame.BodyCase.REQUEST);
    s.say(Frame.newBuilder().setHello(s.hello));
    MeshException e = failure(call);
    is(e, Verdict.MAYBE_EXECUTED, Condition.LINK_BROKEN);
    assertTrue(e.getMessage().contains("a second hello"), e.getMessage());
    CompletableFuture<Reply> again = link.call("@sdb", "GET", NOTHING, SendOptions.DEFAULT.withWaitUp());
    Puppet.Stream next = puppet.accept();
    next.reply(next.next().getSession(), "up again");
    assertEquals("up again", again.get().text());
  }

  @Test
  void largePayloadsPassBothWays() throws Exception {
    byte[] large = new byte[100_000];
    for (int i = 0; i < large.length; i++) {
      large[i] = (byte) (i * 31);
    }
    CompletableFuture<Reply> call = link.call("@sdb", "PUT", large);
    Puppet.Stream s = puppet.accept();
    Frame first = s.next(Frame.BodyCase.REQUEST);
    assertEquals(large.length, first.getRequest().getTotalSize());
    ByteString whole = first.getRequest().getPayload();
    while (whole.size() < large.length) {
      whole = whole.concat(s.next(Frame.BodyCase.PART).getPart().getPayload());
    }
    assertArrayEquals(large, whole.toByteArray());
    s.say(
        Frame.newBuilder()
            .setSession(first.getSession())
            .setReply(mesh.v1.Cluster.Reply.newBuilder().setTotalSize(40_000).setPayload(whole.substring(0, 32768))));
    s.say(
        Frame.newBuilder()
            .setSession(first.getSession())
            .setPart(mesh.v1.Cluster.Part.newBuilder().setPayload(whole.substring(32768, 40_000))));
    assertArrayEquals(java.util.Arrays.copyOf(large, 40_000), call.get().payload());
  }

  @Test
  void closeLeavesNoThreadOfItsOwn() throws Exception {
    CompletableFuture<Reply> call = link.call("@sdb", "GET", NOTHING);
    Puppet.Stream s = puppet.accept();
    s.reply(s.next().getSession(), "");
    call.get();
    CompletableFuture<Void> closed = link.closeAsync();
    s.awaitHalfClose();
    assertFalse(closed.isDone());
    s.finish();
    closed.get();
    link.close(); // again
    is(failure(link.call("@sdb", "GET", NOTHING)), Verdict.NOT_SENT, Condition.CLOSED);
    for (int i = 0; i < 100 && timers() > 0; i++) {
      Thread.sleep(20);
    }
    assertEquals(0, timers());
  }

  private static long timers() {
    return Thread.getAllStackTraces().keySet().stream().filter(t -> t.getName().equals("meshnode-timer")).count();
  }
}
