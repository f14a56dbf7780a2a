package house_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// doors says, for each room, which rooms it may enter. A room ends with /... where
// it is all packages below a directory; a package belongs to the first room
// that holds it. A room that does not exist yet is no mistake.
var doors = []struct {
	room  string
	leads []string
}{
	{"cmd/meshnode/...", []string{"cmd/meshnode/...", "pkg/access", "pkg/gateway/...", "pkg/discovery/...", "pkg/mesh", "examples/..."}},
	{"pkg/gateway/...", []string{"pkg/gateway/...", "pkg/mesh"}},
	{"pkg/discovery/...", []string{"pkg/mesh"}},
	{"pkg/mesh", []string{"pkg/access", "pkg/channel", "pkg/registry", wire}},
	{"pkg/access", nil},
	{"pkg/channel", []string{wire}},
	{"pkg/registry", nil},
	{wire, nil},
	{"examples/...", []string{"examples/...", "pkg/gateway/...", "pkg/discovery/...", "pkg/mesh"}},
	{"test/...", []string{"..."}},
}

// The frames of the wire. pkg/mesh needs them for what handle 0 says.
const wire = "proto/mesh/v1"

// outside says which modules a room may import by itself: the registry none,
// the channel only what gRPC is made of and its error details.
var outside = map[string][]string{
	"pkg/registry": {},
	"pkg/access":   {"google.golang.org/grpc", "go.yaml.in/yaml/v3"},
	"pkg/channel":  {"google.golang.org/grpc", "google.golang.org/protobuf", "google.golang.org/genproto/googleapis/rpc", "golang.org/x", "go.uber.org/zap"},
}

// heavy is what must never come along with pkg/mesh.
var heavy = []string{
	"go.etcd.io",
	"github.com/prometheus",
	"go.opentelemetry.io/otel/sdk",
	"github.com/hashicorp/memberlist",
}

// listedPackage is what go list says of one package.
type listedPackage struct {
	ImportPath                         string
	Standard                           bool
	Imports, TestImports, XTestImports []string
	Deps                               []string
	Error                              *struct{ Err string }
}

func (p listedPackage) room() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

func TestDoors(t *testing.T) {
	for _, p := range ownPackages(t) {
		room, leads, ok := roomOf(p.room())
		if !ok {
			t.Errorf("%s stands in no room: say in test/house/doors_test.go what it may import, and in docs/architecture.md what it is for", p.room())
			continue
		}
		for _, imported := range p.Imports {
			to, own := strings.CutPrefix(imported, module+"/")
			if own && !slices.ContainsFunc(leads, func(lead string) bool { return holds(lead, to) }) {
				t.Errorf("%s imports %s: there is no door from %s to it, only to %v", p.room(), to, room, leads)
			}
		}
	}
}

func TestRegistryAndChannelNeverMeet(t *testing.T) {
	all := listPackages(t)
	for _, pair := range [][2]string{{"pkg/registry", "pkg/channel"}, {"pkg/channel", "pkg/registry"}} {
		p, exists := all[module+"/"+pair[0]]
		if !exists {
			continue
		}
		if slices.Contains(slices.Concat(p.Deps, p.TestImports, p.XTestImports), module+"/"+pair[1]) {
			t.Errorf("%s or its tests depend on %s: pkg/mesh hands one a function of the other", pair[0], pair[1])
		}
	}
}

func TestRoomsKeepOutsidersOut(t *testing.T) {
	all := listPackages(t)
	for room, allowed := range outside {
		for _, imported := range all[module+"/"+room].Imports {
			p := all[imported]
			if p.Standard || strings.HasPrefix(imported, module+"/") || hasPathPrefix(imported, allowed) {
				continue
			}
			t.Errorf("%s imports %s: beside the standard library it may import %v", room, imported, allowed)
		}
	}
}

func TestMeshPullsInNothingHeavy(t *testing.T) {
	for _, dep := range listPackages(t)[module+"/pkg/mesh"].Deps {
		if hasPathPrefix(dep, heavy) {
			t.Errorf("pkg/mesh pulls in %s: it belongs behind a door of its own (pkg/discovery/..., cmd/meshnode)", dep)
		}
	}
}

// TestDoorsAreShut proves that the checks above can fail.
func TestDoorsAreShut(t *testing.T) {
	for from, to := range map[string]string{
		"pkg/channel":        "pkg/registry",
		"pkg/registry":       "pkg/channel",
		"pkg/mesh":           "cmd/meshnode",
		"pkg/discovery/file": "pkg/channel",
		"cmd/meshnode":       "pkg/channel",
		"examples/cluster1":  "proto/mesh/v1",
		"pkg/gateway":        "pkg/meshx",
	} {
		_, leads, ok := roomOf(from)
		if !ok || slices.ContainsFunc(leads, func(lead string) bool { return holds(lead, to) }) {
			t.Errorf("the door from %s to %s is open (room known: %v)", from, to, ok)
		}
	}
	if !hasPathPrefix("go.etcd.io/etcd/client/v3", heavy) || hasPathPrefix("go.opentelemetry.io/otel", heavy) {
		t.Error("hasPathPrefix does not tell heavy packages from others")
	}
}

func roomOf(pkg string) (room string, leads []string, ok bool) {
	for _, door := range doors {
		if holds(door.room, pkg) {
			return door.room, door.leads, true
		}
	}
	return "", nil, false
}

func holds(room, pkg string) bool {
	dir, all := strings.CutSuffix(room, "...")
	return pkg == strings.TrimSuffix(dir, "/") || all && strings.HasPrefix(pkg, dir)
}

func hasPathPrefix(path string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool {
		return path == prefix || strings.HasPrefix(path, prefix+"/")
	})
}

// ownPackages lists the packages of this module.
func ownPackages(t *testing.T) []listedPackage {
	t.Helper()
	var own []listedPackage
	for _, p := range listPackages(t) {
		if strings.HasPrefix(p.ImportPath, module+"/") {
			own = append(own, p)
		}
	}
	if len(own) == 0 {
		t.Fatal("go list names no package of this module")
	}
	return own
}

// listPackages lists the packages of this module and all that they depend on.
func listPackages(t *testing.T) map[string]listedPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Standard,Imports,TestImports,XTestImports,Deps,Error", "./...")
	cmd.Dir = root
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	listed := map[string]listedPackage{}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listedPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return listed
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		if p.Error != nil && strings.HasPrefix(p.ImportPath, module) {
			t.Errorf("go list %s: %s", p.ImportPath, p.Error.Err)
		}
		listed[p.ImportPath] = p
	}
}
