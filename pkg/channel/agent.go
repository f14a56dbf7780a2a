package channel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// agent is the listening end of a link: it joins what arrives, has it
// dispatched, and sends the answers. Its writer is the goroutine of the gRPC
// handler, its reader a goroutine of its own.
type agent struct {
	*link
	m      *Manager
	opt    *Options
	peer   Peer
	limits peerLimits
	conn   func() // cuts the connection
	in     *inbox

	// Of the reader alone.
	joins      map[uint64]*Request // large requests whose parts arrive
	unfinished int64
	checked    time.Time // when overdue last looked

	mu      sync.Mutex
	last    uint64              // the last session that was taken
	calls   map[uint64]*Request // taken and not answered to the end
	queue   replyQueue
	writing bool // the writer is in Send, or about to be
	direct  bool // the goroutine of an answer is
	streams streams
	room    chan struct{} // closed when replies have room again; nil where the reader does not wait
	open    int           // large requests that arrive, for the end of a drain
	busy    bool          // the reader has a batch in its hand
	eof     bool          // the dialler has half-closed
	leaving bool
	said    bool // the goaway has been sent
	why     string
	goLast  uint64
}

func newAgent(m *Manager, l *link, peer Peer, limits peerLimits, cut func(), in *inbox) *agent {
	a := &agent{
		link: l, m: m, opt: &m.opt, peer: peer, limits: limits, conn: cut, in: in,
		joins: make(map[uint64]*Request), calls: make(map[uint64]*Request),
		queue: replyQueue{bulk: bulk[*largeAnswer]{limit: limits.unfinished}},
	}
	a.streams = streams{
		window: limits.window, message: limits.message, limit: m.opt.Limits.LinkStreams, wake: a.wake,
		gate: &m.backlogs, most: m.opt.Limits.LinkReplyBytes,
	}
	return a
}

// read runs until the dialler half-closes or the link ends.
func (a *agent) read(in *inbox) (cause error) {
	defer a.guard(&cause)
	for {
		if err := a.take(in); err != nil {
			return err
		}
		if err := a.awaitReplyRoom(); err != nil {
			return err
		}
		if err := a.receive(in); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return readError(err)
		}
	}
}

// readError is why a link ends that cannot be read. What gRPC or the decoder
// refuses is the dialler's mistake, and told; a broken stream is not.
func readError(err error) error {
	switch status.Code(err) {
	case codes.Internal, codes.ResourceExhausted, codes.Unknown, codes.Unimplemented:
		return protocolError("%s", cleanText(causeOf(err).Error()))
	default:
		return causeOf(err)
	}
}

// take handles the frames of one batch.
func (a *agent) take(in *inbox) error {
	a.setBusy(true)
	defer a.setBusy(false)
	now := time.Now()
	for i := range in.frames {
		if err := a.frame(&in.frames[i], now); err != nil {
			a.unplaced(in.frames[i+1:])
			return err
		}
	}
	if now.Sub(a.checked) >= time.Second {
		a.checked = now
		a.overdue(now)
	}
	return nil
}

// unplaced counts the pushes that were read and are lost with the link.
func (a *agent) unplaced(rest []frame) {
	for i := range rest {
		if rest[i].kind == kindRequest && rest[i].push {
			a.m.Counters.PushesUnplaced.Add(1)
		}
	}
}

func (a *agent) setBusy(busy bool) {
	a.mu.Lock()
	a.busy, a.open = busy, len(a.joins)
	done := !busy && a.done()
	a.mu.Unlock()
	if done {
		a.wake()
	}
}

// frame handles one frame. An error ends the link.
func (a *agent) frame(f *frame, now time.Time) error {
	switch f.kind {
	case kindHello:
		return protocolError("a second hello")
	case kindRegister, kindUnregister, kindRegistered: // not on a Link
		f.reset(kindNone)
		return a.begin(f, now)
	case kindRequest, kindNone:
		return a.begin(f, now)
	case kindPart:
		return a.part(f, now)
	case kindMessage, kindHalfClose, kindWindow:
		return a.streamed(f, now)
	case kindCancel:
		a.cancelled(f.session)
	case kindHeartbeat:
		a.heard(f)
	default: // what only a listener says
		a.m.Counters.FramesStray.Add(1)
	}
	return nil
}

// begin handles the first frame of a message.
func (a *agent) begin(f *frame, now time.Time) error {
	a.mu.Lock()
	switch {
	case f.session <= a.last && f.kind != kindRequest:
		a.mu.Unlock()
		a.m.Counters.FramesStray.Add(1)
		return nil
	case f.session <= a.last:
		a.mu.Unlock()
		return protocolError("session %d is not above the last one, %d", f.session, a.last)
	case a.leaving:
		a.mu.Unlock()
		return nil // the goaway says that it was not taken
	}
	a.last = f.session
	r, refused := a.request(f, now)
	switch {
	case r.Push:
	case len(a.calls) >= a.opt.Limits.CallsInFlight:
		if refused == nil {
			refused = Refuse(meshv1.Reason_REASON_OVERLOADED, fmt.Sprintf("overloaded: calls in flight on this link, at most %d", a.opt.Limits.CallsInFlight))
		}
	default:
		a.calls[r.Session] = r
	}
	if f.stream && refused == nil {
		refused = a.openStream(r)
	}
	a.mu.Unlock()
	switch {
	case refused != nil:
	case r.stream != nil:
		refused = a.resolve(r)
		if refused == nil && !r.stream.single {
			return a.dispatch(r)
		}
	case f.total > 0:
		refused = a.joining(r, f, now)
	default:
		return a.dispatch(r)
	}
	if refused != nil {
		a.refuse(r, refused)
	}
	return nil
}

// part adds a piece to a large request.
func (a *agent) part(f *frame, now time.Time) error {
	r := a.joins[f.session]
	if r == nil {
		return a.streamed(f, now)
	}
	whole, err := r.join.add(f, now)
	switch {
	case err != nil:
		a.unjoin(r)
		a.refuse(r, invalidLarge(err))
	case whole:
		r.held = r.join.held
		w := r.joinSize
		a.unjoin(r)
		if r.Push || r.length() <= politeBytes {
			return a.dispatch(r)
		}
		// Calls may pass it: it keeps neither the reader nor its service's turn
		// while it is put together. It counts as unfinished until it is placed.
		a.m.parts.Add(w)
		a.m.wg.Go(func() {
			defer a.m.parts.Add(-w)
			r.payload = r.TakePayload()
			_ = a.dispatch(r) // a call: it never waits
		})
	}
	return nil
}

// dispatch places a whole message. A push whose service's queue is full stops
// the reading of this link until there is room (M57).
func (a *agent) dispatch(r *Request) error {
	for {
		room, refused := a.opt.Dispatcher.Dispatch(r)
		switch {
		case refused != nil:
			a.refuse(r, refused)
			return nil
		case room == nil:
			return nil
		}
		a.stop()
		select {
		case <-room:
			a.readOn()
		case <-a.ctx.Done():
			a.m.Counters.PushesUnplaced.Add(1)
			return context.Cause(a.ctx)
		}
	}
}

// readOn resumes the reading: parts could not arrive meanwhile.
func (a *agent) readOn() {
	now := time.Now()
	for _, r := range a.joins {
		r.join.last = now
	}
	a.readStreamsOn(now)
	a.resume()
}

// refuse answers a call that is not run; a push is counted.
func (a *agent) refuse(r *Request, f *Failure) {
	r.DropPayload() // the answer may wait long
	if !r.Push {
		r.Fail(f)
		return
	}
	switch f.Reason {
	case meshv1.Reason_REASON_NAME_NOT_FOUND, meshv1.Reason_REASON_STALE_HANDLE, meshv1.Reason_REASON_UNKNOWN_METHOD, meshv1.Reason_REASON_INVALID_NAME:
		a.m.Counters.PushesUnknown.Add(1)
	default:
		a.m.Counters.PushesRefused.Add(1)
	}
}

// cancelled takes a caller's word that nobody waits. The call is answered all
// the same: at once where it has not started, else when its handler returns.
func (a *agent) cancelled(session uint64) {
	if r := a.joins[session]; r != nil {
		a.unjoin(r)
		r.Fail(cancelFailure())
		return
	}
	a.mu.Lock()
	r := a.calls[session]
	switch {
	case r == nil:
		a.m.Counters.FramesStray.Add(1)
		fallthrough
	case r.cancelled:
		a.mu.Unlock()
		return
	}
	r.cancelled = true
	if r.stream != nil && a.cancelledStream(r) {
		return
	}
	if r.answered {
		if size := a.queue.withdraw(r); size > 0 { // a large reply that has not left
			a.m.replies.add(a.queue.putFirst(answer{r: r, fail: cancelFailure()}) - size)
			a.wake()
		}
		a.mu.Unlock()
		return
	}
	a.mu.Unlock()
	if r.cancel(ErrCancelled) {
		r.Fail(cancelFailure())
	}
}

// done says that the link may end in order: the dialler or this process wants
// it, all that was taken is placed, and the last answer has left.
func (a *agent) done() bool {
	if !a.leaving && !a.eof || a.busy || a.leaving && !a.eof && a.open > 0 || a.queue.len() > 0 {
		return false
	}
	for _, r := range a.calls {
		if !r.excused {
			return false
		}
	}
	return true
}

// halfClosed notes that the reader has read to the end.
func (a *agent) halfClosed() {
	for _, r := range a.joins {
		a.unjoin(r)
		a.refuse(r, invalidLarge(errors.New("the link was half-closed before its last part")))
	}
	a.pulse.eof.Store(true)
	a.mu.Lock()
	a.eof = true
	a.mu.Unlock()
	a.wake()
}
