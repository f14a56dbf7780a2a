package io.github.meshnode.client;

/** What is known of a message's execution. */
public enum Verdict {
  /** It never reached a handler, because it never left this process for good. It may be sent again. */
  NOT_SENT("not sent"),
  /** The node refused it before any handler ran. It may be sent again. */
  REJECTED("rejected"),
  /** The link broke, or the caller gave up, after it was sent. Send it again only if running twice does no harm. */
  MAYBE_EXECUTED("maybe executed"),
  /** The handler ran and failed. */
  HANDLER_FAILED("handler failed");

  private final String text;

  Verdict(String text) {
    this.text = text;
  }

  /** The verdict in words: "not sent", "rejected", "maybe executed", "handler failed". */
  @Override
  public String toString() {
    return text;
  }
}
