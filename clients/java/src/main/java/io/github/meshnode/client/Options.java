package io.github.meshnode.client;

import io.grpc.ChannelCredentials;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.security.SecureRandom;
import java.time.Duration;
import java.util.Objects;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Supplier;
import java.util.function.UnaryOperator;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import mesh.v1.Cluster.Hello;

/**
 * What {@link Link.Builder} and {@link Serve.Builder} have in common. Sizes are bytes. Setters throw
 * IllegalArgumentException for a value out of range.
 *
 * @param <B> the builder itself
 */
public abstract class Options<B extends Options<B>> {
  static final Pattern PROCESS = Pattern.compile("[A-Za-z0-9_.-]{1,255}");
  private static final Pattern ADDRESS = Pattern.compile("(?:\\[([0-9A-Fa-f:.%]+)]|([^:/\\[\\]\\s]+)):(\\d{1,5})");

  /** This life of the process: random, never 0, the same on all its links. */
  private static final int INCARNATION = new SecureRandom().nextInt(Integer.MAX_VALUE - 1) + 1;

  final String address;
  private final String host;
  private final int port;
  private String process = defaultProcess();
  private ChannelCredentials credentials;
  private boolean insecure;
  private Supplier<String> token = () -> "";
  private UnaryOperator<ManagedChannelBuilder<?>> channel = UnaryOperator.identity();
  private int maxBatchBytes = 256 << 10;

  Duration heartbeat = Duration.ofSeconds(2);
  Duration connectTimeout = Duration.ofSeconds(5);
  Duration backoffMin = Duration.ofMillis(100);
  Duration backoffMax = Duration.ofSeconds(3);
  Duration drainTime = Duration.ofSeconds(10);
  int maxMessageBytes = 64 << 20;
  long maxUnfinishedBytes = 64 << 20;
  int maxCalls = 16384;
  Executor executor;
  Consumer<LinkState> onState = state -> {};

  Options(String address) {
    Matcher m = ADDRESS.matcher(Objects.requireNonNull(address, "address"));
    if (!m.matches() || Integer.parseInt(m.group(3)) > 65535) {
      throw new IllegalArgumentException("address \"" + address + "\": write host:port or [IPv6]:port");
    }
    this.address = address;
    this.host = m.group(1) != null ? m.group(1) : m.group(2);
    this.port = Integer.parseInt(m.group(3));
  }

  abstract B self();

  /**
   * The name of this process, for logs and for handlers that ask who calls: 1 to 255 letters, digits, '_', '-' and '.'.
   * Default host name and process id.
   */
  public B process(String name) {
    if (!PROCESS.matcher(name).matches()) {
      throw new IllegalArgumentException("process \"" + name + "\": a process name has 1 to 255 letters, digits, '_', '-' and '.'");
    }
    process = name;
    return self();
  }

  /** The longest time for which this side sends nothing. Default 2 s. */
  public B heartbeatInterval(Duration d) {
    heartbeat = positive(d, "heartbeatInterval");
    return self();
  }

  /** How long opening a link may take, hello and acceptance included. Default 5 s. */
  public B connectTimeout(Duration d) {
    connectTimeout = positive(d, "connectTimeout");
    return self();
  }

  /** The pause after the first failed try; it doubles with each, with jitter. Default 100 ms. */
  public B backoffMin(Duration d) {
    backoffMin = positive(d, "backoffMin");
    return self();
  }

  /** The longest pause. Default 3 s. */
  public B backoffMax(Duration d) {
    backoffMax = positive(d, "backoffMax");
    return self();
  }

  /** How long close waits for what is under way. Default 10 s; zero cuts. */
  public B drainTime(Duration d) {
    if (d.isNegative()) {
      throw new IllegalArgumentException("drainTime is negative");
    }
    drainTime = d;
    return self();
  }

  /** The longest gRPC message that this side takes, 65536 to 1048576. Default 262144. */
  public B maxBatchBytes(int n) {
    maxBatchBytes = (int) within(n, 64 << 10, 1 << 20, "maxBatchBytes");
    return self();
  }

  /** The largest payload, of a request or a reply. Default 67108864. */
  public B maxMessageBytes(int n) {
    maxMessageBytes = (int) within(n, 1, Integer.MAX_VALUE - 64, "maxMessageBytes");
    return self();
  }

  /** The bound of large messages that have begun to arrive, by their total sizes. Default 67108864. */
  public B maxUnfinishedBytes(long n) {
    maxUnfinishedBytes = within(n, 64 << 10, Long.MAX_VALUE / 2, "maxUnfinishedBytes");
    return self();
  }

  /** How to speak. Default plaintext, and that on loopback only. */
  public B credentials(ChannelCredentials c) {
    credentials = Objects.requireNonNull(c);
    return self();
  }

  /** Allows plaintext to other machines too. */
  public B insecure() {
    insecure = true;
    return self();
  }

  /** The token that the team shares, where the node asks for one. */
  public B token(String t) {
    if (!t.matches("[\\x21-\\x7e]+")) {
      throw new IllegalArgumentException("the token has characters that are not visible ASCII: is there a line break at its end?");
    }
    return token(() -> t);
  }

  /** The same, asked for each new stream, so that it can be exchanged. */
  public B token(Supplier<String> t) {
    token = Objects.requireNonNull(t);
    return self();
  }

  /** Changes how each channel is made, after the helper's own settings. */
  public B configureChannel(UnaryOperator<ManagedChannelBuilder<?>> change) {
    channel = Objects.requireNonNull(change);
    return self();
  }

  /** Is told of each change of state, in order, on the executor. */
  public B onState(Consumer<LinkState> listener) {
    onState = Objects.requireNonNull(listener);
    return self();
  }

  /** Checks that nothing leaves the machine in clear unasked. */
  void check() {
    boolean local = host.equalsIgnoreCase("localhost") || host.equals("::1") || host.matches("127(\\.\\d{1,3}){3}");
    if (!local && credentials == null && !insecure) {
      throw new IllegalArgumentException(
          "address " + address + ": plaintext is spoken on loopback only; give credentials, or call insecure() to allow it");
    }
  }

  /** Makes a channel for one link: a connection of its own, which gRPC neither shares nor uses twice. */
  ManagedChannelBuilder<?> newChannel() {
    ChannelCredentials c = credentials != null ? credentials : InsecureChannelCredentials.create();
    NettyChannelBuilder b =
        NettyChannelBuilder.forAddress(host, port, c)
            .flowControlWindow(1 << 20)
            .keepAliveTime(10, TimeUnit.SECONDS)
            .keepAliveTimeout(5, TimeUnit.SECONDS)
            .keepAliveWithoutCalls(true)
            .maxInboundMessageSize(maxBatchBytes + (4 << 10))
            .proxyDetector(target -> null)
            .disableRetry()
            .disableServiceConfigLookUp()
            .directExecutor(); // what it runs takes a lock for a moment, and never a caller's code
    return channel.apply(b);
  }

  /** The metadata of a new stream. */
  Metadata metadata() {
    Metadata m = new Metadata();
    String t = token.get();
    if (t != null && !t.isEmpty()) {
      m.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + t);
    }
    return m;
  }

  Hello hello(String node) {
    return Hello.newBuilder()
        .setVersion(Peer.VERSION)
        .setProcess(process)
        .setNode(node)
        .setIncarnation(INCARNATION)
        .setHeartbeatIntervalMs((int) Math.min(heartbeat.toMillis(), 3_600_000))
        .setMaxBatchBytes(maxBatchBytes)
        .setMaxMessageBytes(maxMessageBytes)
        .setMaxUnfinishedBytes(maxUnfinishedBytes)
        .setMaxCalls(maxCalls)
        .build();
  }

  static Duration positive(Duration d, String what) {
    if (d.toMillis() <= 0) {
      throw new IllegalArgumentException(what + " is " + d + "; it is at least 1 ms");
    }
    return d;
  }

  static long within(long n, long min, long max, String what) {
    if (n < min || n > max) {
      throw new IllegalArgumentException(what + " is " + n + "; it is from " + min + " to " + max);
    }
    return n;
  }

  private static String defaultProcess() {
    String host;
    try {
      host = InetAddress.getLocalHost().getHostName();
    } catch (UnknownHostException e) {
      host = "java";
    }
    String name = (host + "-" + ProcessHandle.current().pid()).replaceAll("[^A-Za-z0-9_.-]", "-");
    return name.substring(Math.max(0, name.length() - 255));
  }
}
