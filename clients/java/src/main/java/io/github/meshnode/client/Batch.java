package io.github.meshnode.client;

import mesh.v1.Cluster.Frame;
import mesh.v1.Cluster.LinkRequest;

/** One gRPC message on its way out: frames up to what the receiver takes. */
final class Batch {
  /** The most frames that a gRPC message may have. */
  private static final int MAX_FRAMES = 4096;

  private final LinkRequest.Builder message = LinkRequest.newBuilder();
  private final int limit;
  private int size;

  Batch(int limit) {
    this.limit = limit;
  }

  boolean isEmpty() {
    return message.getFramesCount() == 0;
  }

  int size() {
    return size;
  }

  /** Says whether a frame of at most n bytes has room. */
  boolean fits(int n) {
    return message.getFramesCount() < MAX_FRAMES && size + n + 8 <= limit;
  }

  void add(Frame frame) {
    message.addFrames(frame);
    size += frame.getSerializedSize() + 5;
  }

  LinkRequest build() {
    return message.build();
  }
}
