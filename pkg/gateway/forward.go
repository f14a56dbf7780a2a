package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// handle passes one message or stream of the mesh on to the server.
func (h *Hosted) handle(_ any, in grpc.ServerStream) error {
	ctx := in.Context()
	caller, _ := mesh.CallerFrom(ctx)
	method := caller.Method
	if i := strings.LastIndexByte(method, '/'); i < 1 || method[0] != '/' {
		return mesh.Reject(mesh.ErrUnknownMethod, fmt.Sprintf("unknown method %s: %s is a gRPC server, whose methods are written /SERVICE/METHOD", quote(method), h.name))
	}
	if caller.Hops+1 >= mesh.MaxHops {
		return mesh.Reject(mesh.ErrLoop, fmt.Sprintf("the message was passed on %d times: it goes in a loop", caller.Hops+1))
	}
	md, _ := metadata.FromIncomingContext(ctx)
	wait := md.Get(keyWaitUp)
	if len(md.Get(keyKind)) > 0 {
		return mesh.Reject(mesh.ErrUnknownMethod, fmt.Sprintf("%s may be a method that streams, for all that is known here: open a stream", quote(method)))
	}
	if err := h.ready(ctx, len(wait) > 0 && wait[0] == "1"); err != nil {
		return err
	}
	for key := range md {
		if strings.HasPrefix(key, ownPrefix) {
			delete(md, key)
		}
	}
	md.Set(keyHops, strconv.Itoa(caller.Hops+1))
	answered := new(atomic.Bool)
	ctx, cancel := context.WithCancelCause(context.WithValue(metadata.NewOutgoingContext(ctx, md), answeredKey{}, answered))
	defer cancel(nil)
	out, err := h.cc.NewStream(ctx, &bothWays, method)
	if err != nil {
		if in.Context().Err() == nil && status.Code(err) == codes.Unavailable {
			return mesh.Reject(mesh.ErrDraining, fmt.Sprintf("the server of %s, at %s, is away: %s", h.name, h.addr, status.Convert(err).Message()))
		}
		return err
	}
	go func() { // it ends with the handler, at the latest
		if err := copyUp(in, out); err != nil {
			cancel(unreadable{err})
		}
	}()
	err = h.outcome(in, down(out, in, func() {}), answered)
	if cause := (unreadable{}); err != nil && errors.As(context.Cause(ctx), &cause) {
		return cause.error
	}
	return err
}

// outcome is the status of a call whose server may have gone meanwhile: then it
// may have run. gRPC says UNAVAILABLE, which means elsewhere that it did not.
func (h *Hosted) outcome(in grpc.ServerStream, err error, answered *atomic.Bool) error {
	if err == nil || answered.Load() || in.Context().Err() != nil || status.Code(err) != codes.Unavailable {
		return err
	}
	return mesh.Reject(mesh.ErrLinkBroken, fmt.Sprintf("the connection to the server of %s, at %s, broke with the call on its way: %s",
		h.name, h.addr, status.Convert(err).Message()))
}

// unreadable is why a call is cancelled: a message of its caller could not be
// read.
type unreadable struct{ error }

// copyUp sends the caller's messages to the server.
func copyUp(in grpc.ServerStream, out grpc.ClientStream) error {
	for {
		var payload []byte
		switch err := in.RecvMsg(&payload); err {
		case nil:
			if out.SendMsg(payload) != nil {
				return nil // down gets the reason
			}
		case io.EOF:
			_ = out.CloseSend()
			return nil
		default:
			return err
		}
	}
}

// answers notes which calls the server itself ended: gRPC shows a status of its
// own making as it shows the server's.
type answers struct{}

type answeredKey struct{}

// TagRPC leaves the context as it is.
func (answers) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC notes the server's trailers.
func (answers) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.InTrailer); !ok {
		return
	}
	if answered, ok := ctx.Value(answeredKey{}).(*atomic.Bool); ok {
		answered.Store(true)
	}
}

// TagConn leaves the context as it is.
func (answers) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn does nothing.
func (answers) HandleConn(context.Context, stats.ConnStats) {}
