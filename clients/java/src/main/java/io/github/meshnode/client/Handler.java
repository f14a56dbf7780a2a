package io.github.meshnode.client;

import java.util.concurrent.CompletionStage;

/** Answers the requests for a name. */
@FunctionalInterface
public interface Handler {
  /**
   * Handles one request, on the executor of its {@link Serve} and in the request's context. The stage's result is the
   * reply; null is an empty one. A StatusException or StatusRuntimeException, thrown or in the stage, is what the caller
   * gets: code, message, details, and its trailers. Any other exception is the handler's mistake: the caller gets an id,
   * and {@link Serve.Builder#onError} the exception. What is returned for a push is dropped.
   */
  CompletionStage<Reply> handle(Request request) throws Exception;
}
