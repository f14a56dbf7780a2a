package mesh

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshnode/meshnode/pkg/channel"
	"github.com/meshnode/meshnode/pkg/registry"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// dispatcher joins the links to the registry.
type dispatcher struct{ m *Mesh }

// New makes the one object that a message is in this process.
func (d dispatcher) New() *channel.Request {
	in := &inbound{mesh: d.m}
	in.req.Owner = in
	return &in.req
}

// Resolve says early that a message has nowhere to go, and for a stream whether
// its method is one.
func (d dispatcher) Resolve(r *channel.Request) (stream bool, refused *channel.Failure) {
	s, f := d.m.find(r)
	if f != nil {
		return false, f
	}
	m, known := (*s.methods.Load())[r.Method]
	return m.stream != nil || !known && s.raw != nil, nil
}

// Dispatch puts a message into the queue of its service.
func (d dispatcher) Dispatch(r *channel.Request) (<-chan struct{}, *channel.Failure) {
	s, f := d.m.find(r)
	if f != nil {
		return nil, f
	}
	in := r.Owner.(*inbound)
	in.svc, in.Size, in.Push = s, r.Size(), r.Push
	if !r.Place(in) {
		r.DropPayload()
		return nil, nil
	}
	d.m.work.add(in)
	err := s.reg.Put(in)
	if err == nil {
		if s.programs != nil {
			s.programs.pump()
		}
		return nil, nil
	}
	d.m.work.remove(in)
	switch {
	case errors.Is(err, registry.ErrFull) && r.Push:
		return s.reg.Room(), nil
	case errors.Is(err, registry.ErrFull):
		return nil, channel.Refuse(meshv1.Reason_REASON_OVERLOADED, "overloaded: the queue of the service is full")
	default:
		return nil, refusal(err)
	}
}

// find looks up the service of a message, and that it has the method.
func (m *Mesh) find(r *channel.Request) (*Service, *channel.Failure) {
	var reg *registry.Service
	var err error
	switch {
	case r.Name != "":
		reg, err = m.reg.ByName(r.Name)
	case r.Handle == 0:
		return m.process, m.guard.refuses(r, m.process)
	default:
		reg, err = m.reg.ByHandle(r.Handle)
	}
	if err != nil {
		return nil, refusal(fmt.Errorf("%w: %s", err, quoted(r)))
	}
	s := reg.Owner.(*Service)
	if f := m.guard.refuses(r, s); f != nil {
		return s, f
	}
	return s, s.refuses(r)
}

// quoted is the address of a message, fit for a line of text.
func quoted(r *channel.Request) string {
	if r.Name == "" {
		return Handle(r.Handle).String()
	}
	return strconv.Quote(cut(r.Name))
}

// refuses says that the service has no such method.
func (s *Service) refuses(r *channel.Request) *channel.Failure {
	m, known := (*s.methods.Load())[r.Method]
	switch {
	case s.programs != nil && r.Stream() != nil:
		return channel.Refuse(meshv1.Reason_REASON_UNKNOWN_METHOD, "streams are not carried to programs that serve: use a unary method")
	case s.programs != nil:
		return s.programs.refuses()
	case m.stream != nil && r.Stream() == nil:
		return channel.Refuse(meshv1.Reason_REASON_UNKNOWN_METHOD, fmt.Sprintf("method %q is a stream: open one", cut(r.Method)))
	case !known && s.handler == nil && s.raw == nil:
		return unknownMethod(r.Method)
	default:
		return nil
	}
}

func unknownMethod(name string) *channel.Failure {
	return channel.Refuse(meshv1.Reason_REASON_UNKNOWN_METHOD, fmt.Sprintf("unknown method %q", cut(name)))
}

// undecoded refuses a request that is not what its method takes: nothing ran.
func undecoded(err error) error {
	return refused{channel.Refuse(meshv1.Reason_REASON_INVALID_REQUEST, "invalid request: it cannot be decoded: "+err.Error())}
}

// refusal is what a caller is told of a registry's error.
func refusal(err error) *channel.Failure {
	reason := meshv1.Reason_REASON_DRAINING
	switch {
	case errors.Is(err, registry.ErrInvalidName):
		reason = meshv1.Reason_REASON_INVALID_NAME
	case errors.Is(err, registry.ErrNameNotFound):
		reason = meshv1.Reason_REASON_NAME_NOT_FOUND
	case errors.Is(err, registry.ErrStaleHandle), errors.Is(err, registry.ErrStopped):
		reason = meshv1.Reason_REASON_STALE_HANDLE
	}
	return channel.Refuse(reason, err.Error())
}

// Cancel is called by the link: the caller cancelled, the link broke, or the
// process drained long enough. It returns true where the handler never started.
func (in *inbound) Cancel(cause error) bool {
	if in.svc.programs != nil {
		return in.cancelPassed(cause)
	}
	if in.svc.reg.Remove(in) {
		in.mesh.work.remove(in)
		in.end(cancelled)
		in.req.DropPayload()
		return true
	}
	if !errors.Is(cause, channel.ErrDraining) {
		in.end(cancelled)
	}
	return false
}

// Reject is called by the registry for a message that will never run.
func (in *inbound) Reject(reason error) {
	in.mesh.work.remove(in)
	in.end(cancelled)
	if in.Push {
		in.mesh.ch.Counters.PushesRefused.Add(1)
	}
	in.req.DropPayload()
	if g := in.svc.programs; g != nil && errors.Is(reason, registry.ErrStopped) {
		in.req.Fail(g.left())
		return
	}
	in.req.Fail(refusal(reason))
}

// Run is called by the registry when the message's turn has come.
func (in *inbound) Run() {
	r := &in.req
	defer in.mesh.work.remove(in)
	payload := r.TakePayload() // it is the handler's; the answer may wait long
	if !r.Due.IsZero() && !time.Now().Before(r.Due) {
		in.end(pastDue)
		if r.Push {
			in.mesh.ch.Counters.PushesRefused.Add(1)
		}
		r.Fail(channel.Refuse(meshv1.Reason_REASON_EXPIRED, "the deadline had passed before the handler started"))
		return
	}
	in.mesh.work.start(in)
	returned := false
	defer func() {
		if !returned {
			in.panicked(recover())
		}
		in.end(cancelled)
	}()
	reply, err := in.svc.run(in, payload)
	headers, trailers := in.metadata()
	if err != nil {
		in.failed(err, headers, trailers) // calls the error's methods, which may panic too
	} else {
		r.Reply(channel.Reply{Payload: reply, Headers: headers, Trailers: trailers})
	}
	returned = true
}

// run calls the method of a generated service, or the plain handler, inside the
// interceptors.
func (s *Service) run(in *inbound, request []byte) ([]byte, error) {
	r := &in.req
	if st := r.Stream(); st != nil {
		st.Yield(in)
		return nil, s.stream(in, &bothWays{serverStream{in}, st})
	}
	if m, ok := (*s.methods.Load())[r.Method]; ok && m.run != nil {
		in.full = r.Method
		decode := func(v any) error {
			if err := s.mesh.codec.unmarshal(request, v); err != nil {
				return undecoded(err) // generated code does so before anything of the service's own
			}
			return nil
		}
		v, err := m.run(m.impl, in, decode, s.mesh.intercept)
		if err != nil {
			return nil, err
		}
		return s.mesh.codec.marshal(v)
	}
	switch {
	case s.raw != nil:
		return s.asStream(in, request)
	case s.handler == nil: // the method was a stream, and is no more
		return nil, refused{unknownMethod(r.Method)}
	case s.mesh.intercept == nil:
		return s.handler(in, r.Method, request)
	}
	in.full = "/" + in.known() + "/" + strings.TrimPrefix(r.Method, "/")
	info := &grpc.UnaryServerInfo{Server: s, FullMethod: in.full}
	v, err := s.mesh.intercept(in, request, info, func(ctx context.Context, req any) (any, error) {
		payload, _ := req.([]byte)
		return s.handler(ctx, r.Method, payload)
	})
	if err != nil {
		return nil, err
	}
	reply, ok := v.([]byte)
	if v != nil && !ok {
		return nil, fmt.Errorf("an interceptor made the reply a %T; it must stay []byte", v)
	}
	return reply, nil
}

// known is the service's own name where it has one, however it was addressed,
// so that a rule for "/@sdb/" is not passed by with a handle.
func (in *inbound) known() string {
	if names := in.svc.reg.Names(); len(names) > 0 {
		return names[0]
	}
	return in.address()
}

// panicked ends a message whose handler panicked, or called runtime.Goexit
// (p is nil then). Text and stack stay here; the caller gets the id of the line.
func (in *inbound) panicked(p any) {
	id := rand.Text()[:12]
	what := zap.Any("panic", p)
	if p == nil {
		what = zap.String("panic", "the handler called runtime.Goexit")
	}
	in.mesh.stats.panics.Add(1)
	in.mesh.opt.Logger.Error("handler panicked", zap.String("id", id), zap.String("service", in.address()),
		zap.String("method", in.req.Method), zap.String("peer", in.req.Peer.Process), what, zap.ByteString("stack", debug.Stack()))
	in.req.Fail(channel.Refuse(meshv1.Reason_REASON_PANIC, "internal error "+id+": the handler panicked; its process's log has more under this id"))
}

// failed ends a message whose handler returned an error. What the mesh knew of
// a nested call stays here: it is no fact about this one.
func (in *inbound) failed(err error, headers, trailers []channel.Header) {
	if in.req.Push {
		in.mesh.stats.pushErrors.Add(1)
		in.mesh.opt.Logger.Warn("push failed", zap.String("service", in.address()), zap.String("method", in.req.Method),
			zap.String("peer", in.req.Peer.Process), zap.Error(err))
		return
	}
	var no refused
	if errors.As(err, &no) {
		in.req.Fail(no.Failure)
		return
	}
	f := &channel.Failure{Reason: meshv1.Reason_REASON_HANDLER, Code: codes.Unknown, Message: err.Error(), Headers: headers, Trailers: trailers}
	var nested *Error
	if !errors.As(err, &nested) {
		st, ok := status.FromError(err)
		if !ok {
			st = status.FromContextError(err)
		}
		f.Code, f.Message = st.Code(), st.Message()
		for _, d := range st.Proto().GetDetails() {
			if !ofMesh(d) {
				f.Details = append(f.Details, d)
			}
		}
	}
	in.req.Fail(f)
}

// ofMesh says that a detail holds facts of the mesh.
func ofMesh(d *anypb.Any) bool {
	var info errdetails.ErrorInfo
	return d.MessageIs(&info) && d.UnmarshalTo(&info) == nil && info.GetDomain() == channel.ErrorDomain
}
