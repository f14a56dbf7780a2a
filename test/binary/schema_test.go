package binary_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	simpledbv1 "github.com/meshnode/meshnode/examples/proto/simpledb/v1"
)

// protoset is a file with the schema of simpledb.
func protoset(t *testing.T) string {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(simpledbv1.File_simpledb_v1_simpledb_proto),
	}}
	text, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "simpledb.binpb")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// call, list and describe with a schema: from the target's reflection, over the
// mesh, or from a file. (%NODE stands for the flag that says where db is.)
func TestCallsWithASchema(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb", "--example", "echo", "--reflection")
	blind := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb")
	must(t, []byte("a=1"), "call", s.db(), "db@sdb", "SET")
	must(t, []byte("a=2"), "call", blind.db(), "db@sdb", "SET")
	file := protoset(t)
	const get, talk = "simpledb.v1.SimpleDBService/Get", "echo.v1.EchoService/Talk"
	for _, c := range []struct {
		name, stdin    string
		code           int
		stdout, stderr []string // what must be in them
		args           []string
		at             *server
	}{
		{"a call", "", 0, []string{"{\n  \"value\": \"1\"\n}\n"}, nil, []string{"call", "db@sdb", get, `{"key":"a"}`}, s},
		{"with -d", "", 0, []string{`"value": "1"`}, nil, []string{"call", "-d", `{"key":"a"}`, "db@sdb", get}, s},
		{"from standard input", `{"key":"a"}`, 0, []string{`"value": "1"`}, nil, []string{"call", "-d", "@", "db@sdb", get}, s},
		{"an empty request", "", 0, []string{"{}\n"}, nil, []string{"call", "db@sdb", get}, s},
		{"as text", "", 0, []string{`"1"`}, nil, []string{"call", "--format", "text", "-d", `key: "a"`, "db@sdb", get}, s},
		{"defaults", "", 0, []string{`"text": ""`}, nil, []string{"call", "--emit-defaults", "db@echo", "echo.v1.EchoService/Say"}, s},
		{"a file's schema", "", 0, []string{`"value": "2"`}, nil, []string{"call", "--protoset", file, "-d", `{"key":"a"}`, "db@sdb", get}, blind},
		{"no schema", "", 4, nil, []string{"does not answer reflection", "--protoset FILE"}, []string{"call", "-d", `{"key":"a"}`, "db@sdb", get}, blind},
		{"a server's stream", "", 0, []string{`"number": "1"`, `"number": "3"`}, nil, []string{"call", "-d", `{"to":3}`, "db@echo", "echo.v1.EchoService/Count"}, s},
		{"a client's stream", `{"text":"a"} {"text":"b"}`, 0, []string{`"a"`, `"b"`}, nil, []string{"call", "-d", "@", "db@echo", "echo.v1.EchoService/Collect"}, s},
		{"both ways", `{"text":"a"} {"text":"b"}`, 0, []string{"{\n  \"text\": \"a\"\n}\n{\n  \"text\": \"b\"\n}\n"}, nil, []string{"call", "-d", "@", "db@echo", talk}, s},
		{"a stream that fails", `{"text":"a"}{"text":"fail"}`, 1, []string{`"text": "a"`}, []string{"Aborted", `"status": "Aborted"`}, []string{"call", "-d", "@", "db@echo", talk}, s},
		{"verbose", "", 0, []string{`"text": "hi"`}, []string{"headers: heard: 2", "trailers: said: 1"}, []string{"call", "-v", "-H", "ask: x", "-d", `{"text":"hi"}`, "db@echo", "echo.v1.EchoService/Say"}, s},
		{"an error with details", "", 1, nil, []string{"handler failed: DataLoss: gone", `"code": 15`, `"@type": "type.googleapis.com/google.rpc.ErrorInfo"`, `"domain": "echo"`}, []string{"call", "-d", `{"text":"gone","code":15}`, "db@echo", "echo.v1.EchoService/Say"}, s},
		{"an error of the mesh", "", 4, nil, []string{"rejected:", `"reason": "NAME_NOT_FOUND"`}, []string{"call", "--protoset", file, "db@nobody", get}, s},
		{"an unknown service", "", 2, nil, []string{"db@sdb has no no.Such", "simpledb.v1.SimpleDBService"}, []string{"call", "db@sdb", "no.Such/Get"}, s},
		{"an unknown method", "", 2, nil, []string{"has no method Got; it has Get, Ping, Set"}, []string{"call", "db@sdb", "simpledb.v1.SimpleDBService/Got"}, s},
		{"no JSON", "", 2, nil, []string{"message 1, a simpledb.v1.GetRequest"}, []string{"call", "-d", `{"key"`, "db@sdb", get}, s},
		{"an unknown field", "", 2, nil, []string{`unknown field "kee"`}, []string{"call", "-d", `{"kee":"a"}`, "db@sdb", get}, s},
		{"two requests", "", 2, nil, []string{"more than one message"}, []string{"call", "-d", `{}{}`, "db@sdb", get}, s},
		{"given twice", "", 2, nil, []string{"given twice"}, []string{"call", "-d", `{}`, "db@sdb", get, "{}"}, s},
		{"a flag for schemas", "", 2, nil, []string{"SERVICE/METHOD"}, []string{"call", "-d", `{}`, "db@sdb", "GET"}, s},
		{"a bad format", "", 2, nil, []string{"write json or text"}, []string{"call", "--format", "xml", "db@sdb", get}, s},
		{"no protoset", "", 2, nil, []string{"FileDescriptorSet"}, []string{"call", "--protoset", "schema_test.go", "db@sdb", get}, s},
		{"plain after all", "x", 1, nil, []string{"unknown command"}, []string{"call", "--plain", "db@sdb", get}, s},
		{"names", "", 0, []string{"@echo\t:", "@sdb\t:"}, nil, []string{"list", "db"}, s},
		{"services", "", 0, []string{"simpledb.v1.SimpleDBService\n"}, nil, []string{"list", "db@sdb"}, s},
		{"methods", "", 0, []string{get + "\n"}, nil, []string{"list", "db@sdb", "simpledb.v1.SimpleDBService"}, s},
		{"services of a file", "", 0, []string{"simpledb.v1.SimpleDBService\n"}, nil, []string{"list", "--protoset", file, "db@sdb"}, blind},
		{"no reflection", "", 4, nil, []string{"does not answer reflection"}, []string{"list", "db@sdb"}, blind},
		{"a node and a service", "", 2, nil, []string{"belong to a target"}, []string{"list", "db", "simpledb.v1.SimpleDBService"}, s},
		{"a bad node", "", 2, nil, []string{"invalid node"}, []string{"list", "d b"}, s},
		{"describe", "", 0, []string{"simpledb.v1.SimpleDBService is a service:", "rpc Get ("}, nil, []string{"describe", "db@sdb", "simpledb.v1.SimpleDBService"}, s},
		{"describe a method", "", 0, []string{"rpc Talk (", "stream"}, nil, []string{"describe", "db@echo", talk}, s},
		{"describe a message", "", 0, []string{"string key = 1;"}, nil, []string{"describe", "db@sdb", "simpledb.v1.GetRequest"}, s},
		{"describe all", "", 0, []string{"service EchoService", "service ServerReflection"}, nil, []string{"describe", "db@echo"}, s},
		{"describe nothing", "", 2, nil, []string{"has no no.such.Thing"}, []string{"describe", "db@sdb", "no.such.Thing"}, s},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{c.args[0], c.at.db()}, c.args[1:]...)
			o := do(t, []byte(c.stdin), args...)
			if o.code != c.code {
				t.Errorf("exit code %d, want %d", o.code, c.code)
			}
			for _, want := range c.stdout {
				if !strings.Contains(o.stdout, want) {
					t.Errorf("no %q in standard output:\n%s", want, o.stdout)
				}
			}
			for _, want := range c.stderr {
				if !strings.Contains(o.stderr, want) {
					t.Errorf("no %q in standard error:\n%s", want, o.stderr)
				}
			}
			if c.code != 0 && len(c.stdout) == 0 && o.stdout != "" {
				t.Errorf("standard output: %q", o.stdout)
			}
		})
	}
}

// What is typed is sent as it comes: an answer is there before the next request
// is written.
func TestStreamedCallIsInteractive(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "echo", "--reflection")
	cmd := command("call", s.db(), "-d", "@", "db@echo", "echo.v1.EchoService/Talk")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(bound, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	answers := json.NewDecoder(out)
	for _, text := range []string{"a", "b", "c"} {
		if _, err := in.Write([]byte(`{"text":"` + text + `"}`)); err != nil {
			t.Fatal(err)
		}
		var answer struct{ Text string }
		if err := answers.Decode(&answer); err != nil || answer.Text != text {
			t.Fatalf("%q: %+v, %v", text, answer, err)
		}
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}
