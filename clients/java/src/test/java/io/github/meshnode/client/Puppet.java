package io.github.meshnode.client;

import com.google.protobuf.ByteString;
import io.grpc.Server;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import mesh.v1.Cluster.Frame;
import mesh.v1.Cluster.Hello;
import mesh.v1.Cluster.LinkRequest;
import mesh.v1.Cluster.LinkResponse;
import mesh.v1.Cluster.Reply;
import mesh.v1.Cluster.Request;
import mesh.v1.Cluster.ServeRequest;
import mesh.v1.Cluster.ServeResponse;
import mesh.v1.ClusterServiceGrpc;

/** A node whose frames are written by hand, for the helper's tests. */
final class Puppet extends ClusterServiceGrpc.ClusterServiceImplBase implements AutoCloseable {
  /** One stream to the puppet: a queue of the frames that came, and a way back. */
  static final class Stream {
    final BlockingQueue<Frame> frames = new LinkedBlockingQueue<>();
    final BlockingQueue<Boolean> over = new LinkedBlockingQueue<>();
    Hello hello;
    private final Function<Frame, Void> say;
    private final StreamObserver<?> out;

    Stream(StreamObserver<?> out, Function<Frame, Void> say) {
      this.out = out;
      this.say = say;
    }

    synchronized void say(Frame.Builder frame) {
      say.apply(frame.build());
    }

    void reply(long session, String payload) {
      say(Frame.newBuilder().setSession(session).setReply(Reply.newBuilder().setPayload(ByteString.copyFromUtf8(payload))));
    }

    void request(long session, String method, boolean push) {
      say(Frame.newBuilder().setSession(session).setRequest(Request.newBuilder().setName("@model").setMethod(method).setPush(push)));
    }

    /** The next frame that is no heartbeat. */
    Frame next() throws InterruptedException {
      for (; ; ) {
        Frame f = frames.poll(10, TimeUnit.SECONDS);
        if (f == null) {
          throw new AssertionError("no frame came for 10 s");
        }
        if (!f.hasHeartbeat()) {
          return f;
        }
      }
    }

    Frame next(Frame.BodyCase kind) throws InterruptedException {
      Frame f = next();
      if (f.getBodyCase() != kind) {
        throw new AssertionError(f.getBodyCase() + " came, not " + kind);
      }
      return f;
    }

    /** Waits for the program's half-close. */
    void awaitHalfClose() throws InterruptedException {
      if (over.poll(10, TimeUnit.SECONDS) == null) {
        throw new AssertionError("no half-close came for 10 s");
      }
    }

    void finish() {
      out.onCompleted();
    }

    void fail(Throwable t) {
      out.onError(t);
    }

    void took(Iterable<Frame> came) {
      for (Frame f : came) {
        if (f.hasHello()) {
          hello = f.getHello();
        } else {
          frames.add(f);
        }
      }
    }
  }

  private final BlockingQueue<Stream> streams = new LinkedBlockingQueue<>();
  private final Server server;
  private final Hello hello;

  Puppet(Hello.Builder hello) throws IOException {
    this.hello = hello.setVersion(1).setProcess("puppet").setIncarnation(7).build();
    server = NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", 0)).directExecutor().addService(this).build().start();
  }

  String address() {
    return "127.0.0.1:" + server.getPort();
  }

  Stream accept() throws InterruptedException {
    Stream s = streams.poll(10, TimeUnit.SECONDS);
    if (s == null) {
      throw new AssertionError("no stream was opened for 10 s");
    }
    return s;
  }

  @Override
  public StreamObserver<LinkRequest> link(StreamObserver<LinkResponse> out) {
    return serve(
        new Stream(
            out,
            f -> {
              out.onNext(LinkResponse.newBuilder().addFrames(f).build());
              return null;
            }),
        LinkRequest::getFramesList);
  }

  @Override
  public StreamObserver<ServeRequest> serve(StreamObserver<ServeResponse> out) {
    return serve(
        new Stream(
            out,
            f -> {
              out.onNext(ServeResponse.newBuilder().addFrames(f).build());
              return null;
            }),
        ServeRequest::getFramesList);
  }

  private <M> StreamObserver<M> serve(Stream s, Function<M, Iterable<Frame>> frames) {
    return new StreamObserver<>() {
      @Override
      public void onNext(M message) {
        boolean first = s.hello == null;
        s.took(frames.apply(message));
        if (first) {
          s.say(Frame.newBuilder().setHello(hello));
          streams.add(s);
        }
      }

      @Override
      public void onError(Throwable t) {
        s.over.add(false);
      }

      @Override
      public void onCompleted() {
        s.over.add(true);
      }
    };
  }

  @Override
  public void close() {
    server.shutdownNow();
  }
}
