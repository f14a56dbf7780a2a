package channel

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/peer"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// maxUnaryReply is the largest reply of a unary Call. Whoever wants more opens
// a Link, whose parts no other client's default limit refuses.
const maxUnaryReply = 1 << 20

// Call is the gRPC handler of a unary call: Options.Unary answers it, within the
// bound of their number and until the listener has drained.
func (l *Listener) Call(ctx context.Context, req *meshv1.CallRequest) (*meshv1.CallResponse, error) {
	if l.m.opt.Unary == nil {
		return l.UnimplementedClusterServiceServer.Call(ctx, req)
	}
	refuse := func(why error, text string) error {
		e := NewError(Rejected, why, text)
		e.Target, e.Method = req.GetTarget(), req.GetMethod()
		return e
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.mu.Lock()
	limit := l.m.opt.Limits.UnaryCalls
	switch {
	case l.closed:
		l.mu.Unlock()
		return nil, refuse(ErrDraining, "")
	case l.calls.n >= limit:
		l.mu.Unlock()
		return nil, refuse(ErrOverloaded, fmt.Sprintf("overloaded: unary calls of this listener, at most %d at a time", limit))
	}
	l.calls.n++
	l.calling[&cancel] = struct{}{}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.calling, &cancel)
		l.calls.leave()
	}()
	reply, err := l.m.opt.Unary(ctx, req)
	if err == nil && len(reply.GetPayload())+len(reply.GetJson()) > maxUnaryReply {
		e := NewError(HandlerFailed, ErrReplyTooLarge, fmt.Sprintf("reply too large: %d bytes; a unary Call takes at most %d, a Link more", len(reply.GetPayload())+len(reply.GetJson()), maxUnaryReply))
		e.Target, e.Method = req.GetTarget(), req.GetMethod()
		return nil, e
	}
	if e := (*Error)(nil); errors.As(err, &e) && errors.Is(context.Cause(ctx), ErrDraining) && errors.Is(e.Err, context.Canceled) {
		why := ErrLinkBroken // it may have run
		if e.Verdict != MaybeExecuted {
			why = ErrDraining
		}
		d := NewError(e.Verdict, why, "the node left before the call had its answer")
		d.Node, d.Target, d.Method = e.Node, e.Target, e.Method
		return nil, d
	}
	return reply, err
}

// endCalls ends the unary calls that are left when the drain time is over.
func (l *Listener) endCalls() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for cancel := range l.calling {
		(*cancel)(ErrDraining)
	}
}

// DoHere makes a call or a push to a service of this process, for a peer that
// has no link: it is dispatched as if it had come by one, and as much is known of
// it. A push is done when it stands in its service's queue. The error is an
// *Error. Hops, NoWait and WaitUp of the message have no meaning.
func (m *Manager) DoHere(ctx context.Context, p Peer, msg *Message) (Reply, error) {
	fail := func(e *Error) (Reply, error) {
		e.Target, e.Method = msg.Target, msg.Method
		return Reply{}, e
	}
	if err := m.check(ctx, msg); err != nil {
		return fail(err)
	}
	k := newLink(ctx, &m.opt)
	defer k.close(nil)
	// The call is not among the agent's, so that nobody sends its answer: it is
	// taken out of the queue here.
	a := newAgent(m, k, p, peerLimits{message: maxUnaryReply, unfinished: m.opt.Limits.UnfinishedBytes}, func() {}, nil)
	r := a.opt.Dispatcher.New()
	r.Peer, r.Session, r.Name, r.Handle, r.Method, r.Push = &a.peer, 1, msg.Name, msg.Handle, msg.Method, msg.Push
	r.payload, r.Headers, r.Tag, r.Due, r.agent = msg.Payload, msg.Headers, msg.Tag, msg.Due, a
	for {
		room, refused := a.opt.Dispatcher.Dispatch(r)
		if refused != nil {
			return fail(refused.failed())
		}
		if room == nil {
			break
		}
		select {
		case <-room:
		case <-ctx.Done():
			return fail(NewError(Rejected, ctx.Err(), "the queue of the service was full: "+ctx.Err().Error()))
		}
	}
	if msg.Push {
		return Reply{}, nil
	}
	for {
		select {
		case <-a.wakeup:
			if rep, f, done := a.outcome(); done && f != nil {
				e := f.failed()
				e.Target, e.Method = msg.Target, msg.Method
				return Reply{Headers: f.Headers, Trailers: f.Trailers}, e
			} else if done {
				return rep, nil
			}
		case <-ctx.Done():
			verdict, when := MaybeExecuted, "after it was dispatched"
			if r.cancel(ErrCancelled) {
				verdict, when = Rejected, "before it started"
			}
			return fail(NewError(verdict, ctx.Err(), ctx.Err().Error()+" "+when))
		}
	}
}

// outcome takes the answer out of the queue, which holds no other.
func (a *agent) outcome() (rep Reply, f *Failure, done bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.queue.len() == 0 {
		return rep, nil, false
	}
	a.m.replies.add(-a.queue.bytes)
	var w answer
	if len(a.queue.small) > 0 {
		w = a.queue.small[0]
	} else {
		w = a.queue.blocked[0].answer
	}
	a.queue = replyQueue{}
	return w.reply, w.fail, true
}

// PeerOf is what is known of who makes a unary call.
func PeerOf(ctx context.Context) Peer {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Peer{}
	}
	return Peer{Addr: p.Addr.String()}
}
