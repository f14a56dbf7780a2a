package io.github.meshnode.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.github.meshnode.client.examples.Answer;
import io.github.meshnode.client.examples.Call;
import io.github.meshnode.client.examples.Stub;
import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** The examples against a real node, and the README against the examples. */
@Timeout(120)
class ExamplesTest {
  private static final List<Process> started = new ArrayList<>();

  @TempDir static Path dir;

  @AfterAll
  static void stop() {
    started.forEach(Process::destroyForcibly);
  }

  @Test
  void theReadmeShowsTheExamplesAsTheyAre() throws IOException {
    Matcher m = Pattern.compile("<!-- readme: (\\S+) -->\n```java\n(.*?)```", Pattern.DOTALL).matcher(Files.readString(Path.of("README.md")));
    int n = 0;
    for (; m.find(); n++) {
      assertEquals(Files.readString(Path.of(m.group(1))), m.group(2), m.group(1));
    }
    assertEquals(3, n);
  }

  @Test
  void theExamplesRunAgainstARealNode() throws Exception {
    String meshnode = System.getenv().getOrDefault("MESHNODE", "");
    if (meshnode.isEmpty()) {
      assumeTrue(onPath("go"), "go is not installed");
      meshnode = dir.resolve("meshnode").toString();
      Process build = new ProcessBuilder("go", "build", "-o", meshnode, "./cmd/meshnode").directory(new File("../..")).inheritIO().start();
      assertEquals(0, build.waitFor());
    }
    Process node = start(meshnode, "serve", "--listen", "127.0.0.1:0", "--example", "simpledb", "--allow-serve", "--log", "json");
    String db = "db=" + listening(node);
    String address = db.substring(3);
    assertEquals("hello\n", output(java(Call.class, address)));
    Process gateway = start(meshnode, "serve", "--gateway", "127.0.0.1:0", "--node", db, "--log", "json");
    assertEquals("hello\n", output(java(Stub.class, listening(gateway))));
    Process program = java(Answer.class, address);
    assertEquals("@model is registered", program.inputReader().readLine());
    assertEquals("HELLO", output(start(meshnode, "call", "--node", db, "db@model", "UPPER", "hello")));
    Process dance = start(meshnode, "call", "--node", db, "db@model", "DANCE", "");
    assertTrue(text(dance.getErrorStream()).contains("there is no DANCE"));
    program.destroy();
    assertTrue(program.waitFor(20, TimeUnit.SECONDS));
    assertEquals(143, program.exitValue()); // by SIGTERM, after its hook
  }

  private static boolean onPath(String command) {
    return Pattern.compile(File.pathSeparator).splitAsStream(System.getenv("PATH")).anyMatch(d -> Files.isExecutable(Path.of(d, command)));
  }

  private static Process start(String... command) throws IOException {
    Process p = new ProcessBuilder(command).redirectInput(ProcessBuilder.Redirect.from(new File("/dev/null"))).start();
    started.add(p);
    return p;
  }

  private static Process java(Class<?> main, String address) throws IOException {
    String java = Path.of(System.getProperty("java.home"), "bin", "java").toString();
    return start(java, "-XX:TieredStopAtLevel=1", "-cp", System.getProperty("java.class.path"), main.getName(), address);
  }

  /** What a process writes until it ends, which it does with 0. */
  private static String output(Process p) throws Exception {
    String out = text(p.getInputStream());
    String err = text(p.getErrorStream());
    assertEquals(0, p.waitFor(), err);
    return out;
  }

  private static String text(InputStream in) throws IOException {
    return new String(in.readAllBytes(), StandardCharsets.UTF_8);
  }

  /** The address at which a node's log says that it listens. */
  private static String listening(Process node) throws IOException {
    StringBuilder log = new StringBuilder();
    BufferedReader lines = node.errorReader();
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      log.append(line).append('\n');
      JsonObject entry = line.startsWith("{") ? JsonParser.parseString(line).getAsJsonObject() : new JsonObject();
      if (entry.has("msg") && entry.get("msg").getAsString().endsWith("listening")) {
        return entry.get("addr").getAsString();
      }
    }
    throw new AssertionError("the node ended: " + log);
  }
}
