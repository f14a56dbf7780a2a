package io.github.meshnode.client.examples;

import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.MetadataUtils;
import java.util.concurrent.TimeUnit;
import simpledb.v1.SimpleDBServiceGrpc;
import simpledb.v1.Simpledb.GetRequest;
import simpledb.v1.Simpledb.GetResponse;

/** An ordinary generated stub, one channel to the nearest gateway, one header. */
public final class Stub {
  public static void main(String[] args) {
    Metadata metadata = new Metadata();
    metadata.put(Metadata.Key.of("mesh-to", Metadata.ASCII_STRING_MARSHALLER), "db@sdb");
    ManagedChannel channel = NettyChannelBuilder.forTarget(args.length > 0 ? args[0] : "127.0.0.1:2600").usePlaintext().build();
    GetResponse got =
        SimpleDBServiceGrpc.newBlockingStub(channel)
            .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(metadata))
            .withDeadlineAfter(5, TimeUnit.SECONDS)
            .get(GetRequest.newBuilder().setKey("greeting").build());
    System.out.println(got.hasValue() ? got.getValue() : "greeting has no value");
    channel.shutdownNow();
  }
}
