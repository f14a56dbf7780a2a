package mesh

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshnode/meshnode/pkg/channel"
	"github.com/meshnode/meshnode/pkg/registry"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// headerHops tells how often a call was passed on, where it goes over plain gRPC.
const headerHops = "mesh-hops"

// unary answers ClusterService.Call: one message for a program that keeps no
// stream. A target without a node is this process.
func (m *Mesh) unary(ctx context.Context, req *meshv1.CallRequest) (*meshv1.CallResponse, error) {
	u := &unaryCall{m: m, req: req, text: target{text: req.GetTarget()}}
	md, _ := metadata.FromIncomingContext(ctx)
	md = md.Copy()
	var err error
	if strings.HasPrefix(req.GetTarget(), "@") || strings.HasPrefix(req.GetTarget(), ".") || strings.HasPrefix(req.GetTarget(), ":") {
		err = u.here(ctx, md)
	} else {
		err = u.there(ctx, md)
	}
	// What the handler set comes with an error too. It fails only for a call that is over.
	_ = grpc.SetHeader(ctx, withoutTransport(u.header))
	_ = grpc.SetTrailer(ctx, withoutTransport(u.trailer))
	if err != nil {
		return nil, err
	}
	return u.response()
}

// Transcoder turns JSON into the request of one method, and its reply into JSON.
type Transcoder interface {
	// Request encodes a request; an error says what is wrong with the JSON.
	Request(json string) ([]byte, error)
	// Reply decodes a reply.
	Reply(payload []byte) (json string, err error)
}

// unaryCall is one of them, with what came of it.
type unaryCall struct {
	m               *Mesh
	req             *meshv1.CallRequest
	text            target     // for errors
	codec           Transcoder // of JSON; nil where the payload was given
	payload         []byte
	reply           []byte
	header, trailer metadata.MD
}

func (u *unaryCall) fails(v Verdict, cause error, text string) error {
	return u.text.fails(v, cause, u.req.GetMethod(), text)
}

// request is the payload, made of JSON where that was given.
func (u *unaryCall) request(ctx context.Context, target grpc.ClientConnInterface) (err error) {
	q := u.req
	u.payload = q.GetPayload()
	switch {
	case q.GetJson() == "":
		return nil
	case len(u.payload) > 0:
		return u.fails(NotSent, ErrInvalidRequest, "invalid request: payload and json are both set; one of them is the request")
	case u.m.opt.Schema == nil:
		return u.fails(NotSent, ErrInvalidRequest, "invalid request: this process finds no schemas (Options.Schema), so the request must be a payload, not json")
	case !isFullMethod(q.GetMethod()):
		return u.fails(NotSent, ErrInvalidRequest, "invalid request: json needs a full gRPC method, like /simpledb.v1.SimpleDBService/Get, and "+strconv.Quote(cut(q.GetMethod()))+" is none")
	}
	if u.codec, err = u.m.opt.Schema(ctx, target, q.GetMethod()); err != nil {
		var own *Error
		if errors.As(err, &own) {
			return own
		}
		return u.fails(NotSent, ErrInvalidRequest, "invalid request: the schema of "+strconv.Quote(cut(q.GetMethod()))+" was not found: "+err.Error())
	}
	if u.payload, err = u.codec.Request(q.GetJson()); err != nil {
		return u.fails(NotSent, ErrInvalidRequest, "invalid request: json: "+err.Error())
	}
	return nil
}

// response is the reply, as JSON where the request was.
func (u *unaryCall) response() (*meshv1.CallResponse, error) {
	if u.codec == nil || u.req.GetPush() {
		return &meshv1.CallResponse{Payload: u.reply}, nil
	}
	json, err := u.codec.Reply(u.reply)
	if err != nil {
		return nil, u.fails(HandlerFailed, ErrInvalidRequest, "the reply cannot be told as JSON: "+err.Error())
	}
	return &meshv1.CallResponse{Json: json}, nil
}

func isFullMethod(s string) bool {
	service, ok := strings.CutPrefix(s, "/")
	at := strings.LastIndexByte(service, '/')
	return ok && at > 0 && at < len(service)-1
}

// headers takes from gRPC's metadata what goes on, and how often the call was
// passed on before.
func (u *unaryCall) headers(md metadata.MD) (on metadata.MD, hops int, err error) {
	for key, values := range md {
		if !strings.HasPrefix(key, "mesh-") {
			continue
		}
		if key != headerHops || len(values) != 1 {
			return nil, 0, u.fails(NotSent, ErrInvalidRequest, "invalid request: metadata "+strconv.Quote(cut(key))+": the fields of CallRequest say what is to be said; only one "+headerHops+" is known beside them")
		}
		if hops, err = strconv.Atoi(values[0]); err != nil || hops < 0 {
			return nil, 0, u.fails(NotSent, ErrInvalidRequest, "invalid request: metadata "+headerHops+": "+strconv.Quote(cut(values[0]))+" is no number of hops")
		}
	}
	delete(md, headerHops)
	return withoutTransport(md), hops, nil
}

// there passes the message on to another node.
func (u *unaryCall) there(ctx context.Context, md metadata.MD) error {
	q := u.req
	t, err := u.m.resolve(q.GetTarget(), q.GetMethod())
	if err != nil {
		return err
	}
	u.text = target{text: t.text, node: t.node}
	if !u.m.opt.AllowForward {
		return u.fails(Rejected, ErrNotPermitted, "not permitted: this process passes no calls on; Options.AllowForward (--allow-forward) lets it. Its own services are \"@name\", without a node")
	}
	onBehalf, err := u.m.Admit(ctx, md)
	if err != nil {
		return err
	}
	on, hops, err := u.headers(md)
	if err != nil {
		return err
	}
	opts := []grpc.CallOption{Owned, Forwarded(hops, onBehalf), Headers(on)}
	if q.GetNoWait() {
		opts = append(opts, NoWait)
	}
	if q.GetTraceTag() != "" {
		ctx = WithTrace(ctx, Trace{Tag: q.GetTraceTag()})
	}
	if err := u.request(ctx, optioned{&Proxy{mesh: u.m, text: t.text, target: t}, opts}); err != nil {
		return err
	}
	o := collect(append(opts, grpc.Header(&u.header), grpc.Trailer(&u.trailer)))
	u.reply, err = u.m.do(ctx, t, q.GetMethod(), u.payload, q.GetPush(), &o)
	return err
}

// here gives the message to a service of this process.
func (u *unaryCall) here(ctx context.Context, md metadata.MD) (err error) {
	q := u.req
	msg := &channel.Message{Target: q.GetTarget(), Method: q.GetMethod(), Push: q.GetPush(), Tag: q.GetTraceTag()}
	if s, ok := strings.CutPrefix(q.GetTarget(), ":"); ok {
		h, err := strconv.ParseUint(s, 16, 64)
		if err != nil || len(s) != 16 {
			return invalidTarget(q.GetTarget(), q.GetMethod(), errHandle)
		}
		msg.Handle = h
	} else if msg.Name, err = registry.CanonicalName(q.GetTarget()); err != nil {
		return invalidTarget(q.GetTarget(), q.GetMethod(), err)
	}
	p := channel.PeerOf(ctx)
	if p.Identity, err = u.m.guard.identify(ctx, ""); err != nil {
		return err
	}
	u.m.dropToken(md)
	on, hops, err := u.headers(md)
	if err != nil {
		return err
	}
	if hops >= MaxHops {
		return u.fails(Rejected, ErrLoop, ErrLoop.Error())
	}
	msg.Headers, msg.Hops = appendMD(nil, on), uint32(hops)
	if !msg.Push {
		if _, has := ctx.Deadline(); !has && u.m.opt.CallTimeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, u.m.opt.CallTimeout)
			defer cancel()
		}
		msg.Due, _ = ctx.Deadline()
	}
	if err := u.request(ctx, nil); err != nil {
		return err
	}
	msg.Payload = u.payload
	reply, err := u.m.ch.DoHere(ctx, p, msg)
	u.reply, u.header, u.trailer = reply.Payload, toMD(reply.Headers), toMD(reply.Trailers)
	return err
}

// optioned is a proxy whose messages all have these options.
type optioned struct {
	*Proxy
	opts []grpc.CallOption
}

// Invoke is the proxy's.
func (o optioned) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return o.Proxy.Invoke(ctx, method, args, reply, append(opts[:len(opts):len(opts)], o.opts...)...)
}

// NewStream is the proxy's.
func (o optioned) NewStream(ctx context.Context, d *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return o.Proxy.NewStream(ctx, d, method, append(opts[:len(opts):len(opts)], o.opts...)...)
}

// withoutTransport drops what is the transport's own, and what HTTP/2 cannot
// carry: a handler of the mesh may answer what it likes.
func withoutTransport(md metadata.MD) metadata.MD {
	for key, values := range md {
		own := key == "content-type" || key == "user-agent" || key == "te" || key == "host" || key == "connection" ||
			strings.HasPrefix(key, ":") || strings.HasPrefix(key, "grpc-")
		if own || checkMD(metadata.MD{key: nil}) != nil || key != strings.ToLower(key) || !strings.HasSuffix(key, "-bin") && slices.ContainsFunc(values, unprintable) {
			delete(md, key)
		}
	}
	return md
}

func unprintable(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}
