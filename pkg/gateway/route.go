package gateway

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// What a call's metadata says to the gateway. It goes no further, except that
// mesh.WaitUp says mesh-waitup too.
const (
	ownPrefix = "mesh-"
	keyTo     = "mesh-to"
	keyNoWait = "mesh-nowait"
	keyWaitUp = "mesh-waitup"
	keyPost   = "mesh-post"
	keyTrace  = "mesh-trace"
	keyHops   = "mesh-hops" // what the call made before, of which a Host tells
	// keyKind goes with a request whose method may stream for all that the gateway
	// knows: a Host, which does not know either, refuses it.
	keyKind = "mesh-kind"
	kindAny = "any"
)

// route is where a call goes, and how.
type route struct {
	target string
	post   bool
	opts   []grpc.CallOption
	tag    string
	md     metadata.MD // what goes to the handler
}

// refusal is the error of a call that goes no further.
func refusal(condition error, code codes.Code, target, method, text string) *mesh.Error {
	return &mesh.Error{Verdict: mesh.NotSent, Err: condition, Code: code, Target: target, Method: method, Message: text}
}

// invalid is the refusal of a call that says something wrong of itself.
func invalid(condition error, target, method, format string, args ...any) error {
	return refusal(condition, codes.InvalidArgument, target, method, fmt.Sprintf(format, args...))
}

// route reads the metadata of a call that is for someone.
func (g *Gateway) route(method string, in metadata.MD, onBehalf string) (r route, err error) {
	r.md = make(metadata.MD, len(in))
	var noWait, waitUp bool
	var hops int
	for key, values := range in {
		if !strings.HasPrefix(key, ownPrefix) {
			if !transports(key) {
				r.md[key] = values
			}
			continue
		}
		if len(values) != 1 {
			return r, invalid(mesh.ErrInvalidRequest, "", method, "metadata %s was given %d times: give it once", key, len(values))
		}
		switch value := values[0]; key {
		case keyTo:
			r.target = value
		case keyTrace:
			r.tag = value
		case keyNoWait:
			noWait, err = flag(key, method, value)
		case keyWaitUp:
			waitUp, err = flag(key, method, value)
		case keyPost:
			r.post, err = flag(key, method, value)
		case keyHops:
			if hops, err = strconv.Atoi(value); err != nil || hops < 0 {
				err = invalid(mesh.ErrInvalidRequest, "", method, "metadata %s: %s is no number of hops", key, quote(value))
			}
		default:
			return r, invalid(mesh.ErrInvalidRequest, "", method, "metadata %s is none that a gateway knows: there are %s, %s, %s, %s and %s",
				quote(key), keyTo, keyNoWait, keyWaitUp, keyPost, keyTrace)
		}
		if err != nil {
			return r, err
		}
	}
	if _, said := in[keyTo]; !said {
		if r.target = g.routes[serviceOf(method)]; r.target == "" {
			return r, invalid(mesh.ErrInvalidTarget, "", method,
				"no mesh-to: say in the call's metadata for whom it is, like \"mesh-to: db@sdb\"; this gateway has no route for %s", quote(serviceOf(method)))
		}
	}
	r.opts = append(make([]grpc.CallOption, 0, 8), mesh.Owned, mesh.Forwarded(hops, onBehalf))
	if noWait {
		r.opts = append(r.opts, mesh.NoWait)
	}
	if waitUp {
		r.opts = append(r.opts, mesh.WaitUp)
	}
	return r, nil
}

func flag(key, method, value string) (bool, error) {
	on, err := strconv.ParseBool(value)
	if err != nil {
		return false, invalid(mesh.ErrInvalidRequest, "", method, "metadata %s: %s is neither 1 nor 0", key, quote(value))
	}
	return on, nil
}

// context is that of the message: it ends with the client's call.
func (r *route) context(ctx context.Context) context.Context {
	if r.tag != "" {
		ctx = mesh.WithTrace(ctx, mesh.Trace{Tag: r.tag})
	}
	return metadata.NewOutgoingContext(ctx, r.md)
}

// transports says that a key is the transport's own.
func transports(key string) bool {
	switch key {
	case "content-type", "user-agent", "te", "host", "connection":
		return true
	default:
		return strings.HasPrefix(key, ":") || strings.HasPrefix(key, "grpc-")
	}
}

// withoutTransport is what of a peer's headers or trailers goes on.
func withoutTransport(md metadata.MD) metadata.MD {
	for key := range md {
		if transports(key) {
			delete(md, key)
		}
	}
	return md
}

// serviceOf is "simpledb.v1.SimpleDBService" of
// "/simpledb.v1.SimpleDBService/Get".
func serviceOf(method string) string {
	service := strings.TrimPrefix(method, "/")
	if i := strings.LastIndexByte(service, '/'); i >= 0 {
		service = service[:i]
	}
	return service
}

// quote makes what a client wrote fit to stand in a sentence.
func quote(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strconv.Quote(s)
}
