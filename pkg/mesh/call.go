package mesh

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/meshnode/meshnode/pkg/channel"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// callOption is an option of this package. It is a grpc.CallOption so that it
// can be given to generated stubs too.
type callOption struct {
	grpc.EmptyCallOption
	set func(callOptions) callOptions // by value, so that none escapes
}

type callOptions struct {
	noWait, waitUp, post, owned bool
	headers                     metadata.MD
	replyHeaders, replyTrailers []*metadata.MD
	maxRequest, maxReply        int // 0: as the limits say
	hops                        uint32
	onBehalf                    string
	peers                       []*peer.Peer
	codec                       codec // given to the call; zero: the Mesh's
}

// Options of Call, Send and Query, and of stubs over a Proxy. grpc.Header and
// grpc.Trailer, grpc.Peer, grpc.MaxCallSendMsgSize and grpc.MaxCallRecvMsgSize
// work as well, for stubs grpc.ForceCodecV2 and grpc.ForceCodec too; gRPC's other
// options have no meaning on a mesh and are ignored.
var (
	// NoWait fails at once where the node is absent, or in the pause after a
	// failed dial. A dial that runs, and a busy link, are waited for.
	NoWait grpc.CallOption = callOption{set: func(o callOptions) callOptions { o.noWait = true; return o }}
	// WaitUp waits on when a dial fails, until the context ends; so does
	// grpc.WaitForReady(true). Without it a message to a node that cannot be
	// reached fails at the next dial, of which there is one every 100 ms to 3 s.
	// With NoWait, NoWait wins. A service that stands for a server elsewhere
	// (package gateway) waits for that too: it is told by the header mesh-waitup.
	WaitUp grpc.CallOption = callOption{set: func(o callOptions) callOptions { o.waitUp = true; return o }}
	// Post makes a stub's call one-way: it returns Send's error, and leaves
	// the reply message as it is. Call with Post is Send.
	Post grpc.CallOption = callOption{set: func(o callOptions) callOptions { o.post = true; return o }}
	// Owned gives the payload away for good, so that it need not be copied.
	Owned grpc.CallOption = callOption{set: func(o callOptions) callOptions { o.owned = true; return o }}
)

// Headers adds metadata to a message, which its handler finds with
// metadata.FromIncomingContext: 8 KiB together. Outgoing metadata of the
// context travels too.
func Headers(md metadata.MD) grpc.CallOption {
	return callOption{set: func(o callOptions) callOptions { o.headers = metadata.Join(o.headers, md); return o }}
}

// MaxHops is how often a message may be passed on.
const MaxHops = channel.MaxHops

// Forwarded says that the message is not this process's own but passed on: it
// had gone over hops links, or through as many forwarders, before it came here
// (Caller.Hops; 0 where it came from a program outside). It leaves with one
// more, and at MaxHops it fails: ErrLoop, not sent. So whatever passes messages on
// cannot do it in a loop for ever. onBehalf is the identity of the first caller,
// where this process has verified it; "" where it has not.
func Forwarded(hops int, onBehalf string) grpc.CallOption {
	next := uint32(min(max(hops, 0), channel.MaxHops)) + 1
	return callOption{set: func(o callOptions) callOptions { o.hops, o.onBehalf = next, onBehalf; return o }}
}

func collect(opts []grpc.CallOption) (o callOptions) {
	for _, opt := range opts {
		switch opt := opt.(type) {
		case callOption:
			o = opt.set(o)
		case grpc.HeaderCallOption:
			o.replyHeaders = append(o.replyHeaders, opt.HeaderAddr)
		case grpc.TrailerCallOption:
			o.replyTrailers = append(o.replyTrailers, opt.TrailerAddr)
		case grpc.PeerCallOption:
			o.peers = append(o.peers, opt.PeerAddr)
		case grpc.ForceCodecV2CallOption:
			o.codec = codec{CodecV2: opt.CodecV2, given: true}
		case grpc.ForceCodecCallOption:
			o.codec = codec{CodecV2: oldCodec{opt.Codec}, given: true}
		case grpc.FailFastCallOption: // grpc.WaitForReady
			o.waitUp = !opt.FailFast
		case grpc.MaxSendMsgSizeCallOption:
			o.maxRequest = opt.MaxSendMsgSize
		case grpc.MaxRecvMsgSizeCallOption:
			o.maxReply = opt.MaxRecvMsgSize
		}
	}
	return o
}

// Call sends a request and waits for its reply, which belongs to the caller.
// The payload is copied, unless it is Owned. The error is an *Error. It is safe
// for concurrent use.
func (m *Mesh) Call(ctx context.Context, target, method string, payload []byte, opts ...grpc.CallOption) ([]byte, error) {
	t, err := m.resolve(target, method)
	if err != nil {
		return nil, err
	}
	o := collect(opts)
	return m.do(ctx, t, method, payload, o.post, &o)
}

// Send sends a one-way message. It returns nil once the message stands in the
// line of an open link; what happens later is not reported. It waits for its
// node as Call does, and at most Options.SendWait for room in the node's line.
// Its context bounds that waiting alone: no deadline travels with the message.
func (m *Mesh) Send(ctx context.Context, target, method string, payload []byte, opts ...grpc.CallOption) error {
	t, err := m.resolve(target, method)
	if err != nil {
		return err
	}
	o := collect(opts)
	_, err = m.do(ctx, t, method, payload, true, &o)
	return err
}

// Query returns the handle of a name, given as a target ("db@sdb"), or
// ErrNameNotFound. The handle of a target that has one is returned as it is.
func (m *Mesh) Query(ctx context.Context, name string, opts ...grpc.CallOption) (Handle, error) {
	named, err := m.resolve(name, methodQuery)
	if err != nil {
		return 0, err
	}
	if named.name == "" {
		return named.handle, nil
	}
	request, err := proto.Marshal(&meshv1.QueryRequest{Name: named.name})
	if err != nil {
		return 0, err
	}
	o := collect(opts)
	o.owned = true
	t := &target{text: named.text, node: named.node} // handle 0
	reply, err := m.do(ctx, t, methodQuery, request, false, &o)
	if err != nil {
		return 0, err
	}
	var r meshv1.QueryResponse
	if err := proto.Unmarshal(reply, &r); err != nil {
		return 0, t.fails(HandlerFailed, ErrInvalidRequest, methodQuery, "the node's answer to Query is malformed")
	}
	return Handle(r.GetHandle()), nil
}

// do is the one way out of the process for every message.
func (m *Mesh) do(ctx context.Context, t *target, method string, payload []byte, push bool, o *callOptions) ([]byte, error) {
	msg := &channel.Message{
		Route: &t.route, Node: t.node, Name: t.name, Handle: uint64(t.handle), Target: t.text, Method: method, Payload: payload,
		Push: push, NoWait: o.noWait, WaitUp: o.waitUp, Owned: o.owned, Hops: o.hops, OnBehalf: o.onBehalf,
	}
	in, trace := carriedBy(ctx)
	if in != nil {
		msg.Turn = in
		msg.Inside = in.mesh == m && !in.over()
	}
	if _, has := ctx.Deadline(); !has && !push && m.opt.CallTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, m.opt.CallTimeout)
		defer cancel()
	}
	if !push { // the deadline of a Send bounds the Send
		msg.Due, _ = ctx.Deadline()
	}
	if err := outgoing(ctx, msg, o, in, trace); err != nil {
		return nil, t.fails(NotSent, ErrInvalidRequest, method, "invalid request: "+err.Error())
	}
	if o.maxRequest > 0 && len(payload) > o.maxRequest {
		return nil, t.fails(NotSent, ErrTooLarge, method, tooLarge("request", len(payload), o.maxRequest))
	}
	reply, err := m.ch.Do(ctx, msg)
	for _, p := range o.replyHeaders {
		*p = toMD(reply.Headers)
	}
	for _, p := range o.replyTrailers {
		*p = toMD(reply.Trailers)
	}
	for _, p := range o.peers {
		*p = peer.Peer{Addr: peerAddr(m.ch.Node(t.node).Addr)}
	}
	if err == nil && o.maxReply > 0 && len(reply.Payload) > o.maxReply {
		return nil, t.fails(HandlerFailed, ErrReplyTooLarge, method, tooLarge("reply", len(reply.Payload), o.maxReply))
	}
	return reply.Payload, err
}

// outgoing collects the headers and the trace of a message.
func outgoing(ctx context.Context, msg *channel.Message, o *callOptions, in *inbound, trace *Trace) error {
	md, _ := metadata.FromOutgoingContext(ctx)
	for _, md := range [...]metadata.MD{md, o.headers} {
		if len(md) == 0 {
			continue
		}
		if err := checkMD(md); err != nil {
			return err
		}
		msg.Headers = appendMD(msg.Headers, md)
	}
	if o.waitUp { // a host whose server is away is to wait too
		msg.Headers = append(msg.Headers, channel.Header{Key: headerWaitUp, Value: []byte("1")})
	}
	// The trace of WithTrace comes first, then headers, then the trace of the
	// message that is being handled.
	var t Trace
	own := trace != nil
	switch {
	case own:
		t = *trace
	case in != nil:
		t = in.trace()
	}
	msg.Tag = t.Tag
	if t.Parent == "" && t.State == "" {
		return nil
	}
	for _, h := range []struct{ key, value string }{{headerParent, t.Parent}, {headerState, t.State}} {
		is := func(x channel.Header) bool { return x.Key == h.key }
		if h.value == "" || !own && slices.ContainsFunc(msg.Headers, is) {
			continue
		}
		msg.Headers = append(slices.DeleteFunc(msg.Headers, is), channel.Header{Key: h.key, Value: []byte(h.value)})
	}
	return nil
}

// checkMD refuses keys that gRPC's metadata cannot have.
func checkMD(md metadata.MD) error {
	for k := range md {
		bad := strings.ContainsFunc(k, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
		})
		if bad || k == "" {
			return fmt.Errorf("header key %q: keys have letters, digits, '-', '_' and '.'", cut(k))
		}
	}
	return nil
}

// appendMD adds metadata, without what gRPC and the mesh keep for themselves.
func appendMD(hs []channel.Header, md metadata.MD) []channel.Header {
	for k, vs := range md {
		k = strings.ToLower(k)
		if strings.HasPrefix(k, "grpc-") || strings.HasPrefix(k, ":") {
			continue
		}
		for _, v := range vs {
			hs = append(hs, channel.Header{Key: k, Value: []byte(v)})
		}
	}
	return hs
}

func toMD(hs []channel.Header) metadata.MD {
	md := make(metadata.MD, len(hs))
	for _, h := range hs {
		md[h.Key] = append(md[h.Key], string(h.Value))
	}
	return md
}

// fails makes the error of a message to t.
func (t *target) fails(v Verdict, cause error, method, text string) *Error {
	e := channel.NewError(v, cause, text)
	e.Node, e.Target, e.Method = t.node, t.text, method
	return e
}

func tooLarge(what string, n, limit int) string {
	return fmt.Sprintf("the %s is too large: %d bytes; the call allows %d", what, n, limit)
}

// Await lets the next message of a serial service run while f waits for
// something outside the mesh: a handler calls it with its context around a
// sleep, a lock or a foreign call. It returns when f has returned and the
// handler's turn is back. Elsewhere it just calls f.
func Await(ctx context.Context, f func()) {
	if in := inboundOf(ctx); in != nil && in.Yield() {
		defer in.Retake()
	}
	f()
}

// Trace travels with calls and pushes, from hop to hop.
type Trace struct {
	// Parent and State are the W3C traceparent and tracestate headers.
	Parent, State string
	// Tag is a skynet trace tag. One that does not begin with '(' becomes
	// "(caller-target-session)tag" on its first hop.
	Tag string
}

const (
	headerWaitUp = "mesh-waitup"
	headerParent = "traceparent"
	headerState  = "tracestate"
)

// WithTrace returns a context whose calls and pushes carry t.
func WithTrace(ctx context.Context, t Trace) context.Context {
	return context.WithValue(ctx, inboundKey{}, &traced{t, inboundOf(ctx)})
}

// TraceFrom returns the trace of a context: what WithTrace put there, else what
// came with the message that a handler handles.
func TraceFrom(ctx context.Context) Trace {
	switch in, t := carriedBy(ctx); {
	case t != nil:
		return *t
	case in != nil:
		return in.trace()
	default:
		return Trace{}
	}
}
