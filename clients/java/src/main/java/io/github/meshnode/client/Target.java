package io.github.meshnode.client;

import java.nio.charset.StandardCharsets;
import java.util.regex.Pattern;

/**
 * For whom a message is: a name with its sign, or a handle.
 *
 * @param text as the caller wrote it
 * @param name with its sign; null where it is a handle
 * @param handle where it is one
 * @param wrong what is wrong with it; null where nothing is
 */
record Target(String text, String name, long handle, Trouble wrong) {
  private static final Pattern HANDLE = Pattern.compile(":[0-9a-fA-F]{16}");
  private static final Pattern WITH_NODE = Pattern.compile("[^@.:]+[@.:].*", Pattern.DOTALL);

  /** Reads "@name", ".name" or ":" and 16 hex digits. */
  static Target of(String text) {
    if (HANDLE.matcher(text).matches()) {
      return new Target(text, null, Long.parseUnsignedLong(text.substring(1), 16), null);
    }
    if (text.length() < 2 || text.charAt(0) != '@' && text.charAt(0) != '.') {
      String hint = WITH_NODE.matcher(text).matches() ? "; a link is to one node, so leave out the node's name" : "";
      String says = "invalid target \"" + shown(text) + "\": write \"@name\", \".name\" or \":\" and the 16 hex digits of a handle" + hint;
      return new Target(text, null, 0, Trouble.of(Verdict.NOT_SENT, Condition.INVALID_TARGET, says));
    }
    return new Target(text, text, 0, checkName(text));
  }

  /** The process itself, which answers what process.proto says. */
  static Target process(String text) {
    return new Target(text, null, 0, null);
  }

  /** Checks a name with its sign. Null where it is good. */
  static Trouble checkName(String name) {
    byte[] bytes = name.getBytes(StandardCharsets.UTF_8);
    boolean good =
        bytes.length >= 1
            && bytes.length <= 255
            && new String(bytes, StandardCharsets.UTF_8).equals(name)
            && name.codePoints().noneMatch(Character::isISOControl);
    if (good) {
      return null;
    }
    String says = "invalid name \"" + shown(name) + "\": a name has 1 to 255 bytes of UTF-8 without control characters";
    return Trouble.of(Verdict.NOT_SENT, Condition.INVALID_NAME, says);
  }

  private static String shown(String text) {
    String cut = text.length() > 80 ? text.substring(0, 80) : text;
    return cut.replaceAll("\\p{Cntrl}", "?");
  }

  /** The same for messages to one addressee, which keep their order. */
  Object addressee() {
    return name != null ? name : (Object) handle;
  }
}
