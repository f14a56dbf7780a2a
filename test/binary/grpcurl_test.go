package binary_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// grpcurl is the program itself, of the version in tools/go.mod. `make test`
// builds it; else it is built here.
var grpcurl = sync.OnceValues(func() (string, error) {
	path, err := filepath.Abs("../../.bin/grpcurl")
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	out, err := exec.Command("go", "-C", "../../tools", "build", "-buildvcs=false", "-o", path, "github.com/fullstorydev/grpcurl/cmd/grpcurl").CombinedOutput()
	if err != nil {
		return "", &exec.Error{Name: "go build grpcurl: " + string(out), Err: err}
	}
	return path, nil
})

// curl runs grpcurl against a gateway, and returns what it printed and its code.
func curl(t *testing.T, stdin string, args ...string) (string, int) {
	t.Helper()
	path, err := grpcurl()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append([]string{"-plaintext", "-max-time", "20"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, _ := cmd.CombinedOutput() // the exit code says it
	return string(out), cmd.ProcessState.ExitCode()
}

// grpcurl against a gateway: it lists, describes and calls a service of the mesh
// by one line of metadata, streams too, and shows the details of an error. So it
// does with an ordinary server behind a name, here another meshnode's gateway.
func TestGrpcurl(t *testing.T) {
	node := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb", "--example", "echo", "--reflection", "--gateway", "127.0.0.1:0")
	gate := serve(t, node.db(), "--gateway", "127.0.0.1:0", "--route", "echo.v1.EchoService=db@echo")
	at, sdb, echo := gatewayOf(gate), "mesh-to: db@sdb", "mesh-to: db@echo"
	must(t, []byte("a=1"), "call", node.db(), "db@sdb", "SET")
	for _, c := range []struct {
		name, stdin string
		code        int
		want        []string
		args        []string
	}{
		{"list", "", 0, []string{"simpledb.v1.SimpleDBService\n"}, []string{"-H", sdb, at, "list"}},
		{"list methods", "", 0, []string{"simpledb.v1.SimpleDBService.Get\n", "simpledb.v1.SimpleDBService.Set\n"}, []string{"-H", sdb, at, "list", "simpledb.v1.SimpleDBService"}},
		{"describe", "", 0, []string{"rpc Get ( .simpledb.v1.GetRequest ) returns ( .simpledb.v1.GetResponse );"}, []string{"-H", sdb, at, "describe", "simpledb.v1.SimpleDBService"}},
		{"describe a message", "", 0, []string{"string key = 1;"}, []string{"-H", sdb, at, "describe", "simpledb.v1.GetRequest"}},
		{"call", "", 0, []string{`"value": "1"`}, []string{"-H", sdb, "-d", `{"key":"a"}`, at, "simpledb.v1.SimpleDBService/Get"}},
		{"headers and trailers", "", 0, []string{"heard: 2", "said: 1"}, []string{"-v", "-H", echo, "-d", `{"text":"hi"}`, at, "echo.v1.EchoService/Say"}},
		{"server stream", "", 0, []string{`"number": "1"`, `"number": "3"`}, []string{"-H", echo, "-d", `{"to":3}`, at, "echo.v1.EchoService/Count"}},
		{"client stream", `{"text":"a"}{"text":"b"}`, 0, []string{`"a"`, `"b"`}, []string{"-H", echo, "-d", "@", at, "echo.v1.EchoService/Collect"}},
		{"both ways", `{"text":"a"} {"text":"b"}`, 0, []string{`"text": "a"`, `"text": "b"`}, []string{"-H", echo, "-d", "@", at, "echo.v1.EchoService/Talk"}},
		{"an error with details", "", 64 + 15, []string{"Code: DataLoss", "Message: gone", "google.rpc.ErrorInfo", `"domain": "echo"`}, []string{"-H", echo, "-d", `{"text":"gone","code":15}`, at, "echo.v1.EchoService/Say"}},
		{"an error of the mesh", "", 1, []string{"node [nowhere] is absent"}, []string{"-H", "mesh-to: nowhere@sdb", "-H", "mesh-nowait: 1", at, "list"}},
		{"no target", "", 1, []string{"no mesh-to", "mesh-to: db@sdb"}, []string{at, "list"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, code := curl(t, c.stdin, c.args...)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("it printed no %q:\n%s", want, out)
				}
			}
		})
	}
}
