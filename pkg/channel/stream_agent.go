package channel

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// openStream makes a call that was taken a stream, within the bounds. Under the
// lock.
func (a *agent) openStream(r *Request) *Failure {
	l := &a.opt.Limits
	switch {
	case a.streams.open >= l.LinkStreams:
		return Refuse(meshv1.Reason_REASON_OVERLOADED, fmt.Sprintf("overloaded: streams on this link, at most %d", l.LinkStreams))
	case a.m.streams.Add(1) > int64(l.Streams):
		a.m.streams.Add(-1)
		return Refuse(meshv1.Reason_REASON_OVERLOADED, fmt.Sprintf("overloaded: streams in this process, at most %d", l.Streams))
	}
	r.stream = newStream(&a.mu, l, &a.m.messages)
	r.stream.request, r.stream.peer = r, a.peer
	a.streams.begin(r.stream, r.Session)
	return nil
}

// resolve asks early for whom a stream is.
func (a *agent) resolve(r *Request) *Failure {
	asStream, refused := a.opt.Dispatcher.Resolve(r)
	r.stream.single = !asStream
	return refused
}

// streamed takes what comes up for a stream.
func (a *agent) streamed(f *frame, now time.Time) error {
	a.mu.Lock()
	r := a.calls[f.session]
	if r == nil || r.stream == nil {
		opened := f.session <= a.last
		a.mu.Unlock()
		switch {
		case f.kind == kindWindow && opened: // one may come late
		case f.kind == kindPart || r != nil:
			a.m.Counters.FramesStray.Add(1)
		default:
			return a.begin(f, now)
		}
		return nil
	}
	s := r.stream
	var err error
	switch {
	case s.broken != nil || r.cancelled: // it is over, but for its answer
	case f.kind == kindWindow:
		err = s.widen(f.total)
	case f.kind == kindHalfClose:
		err = s.halfClosed()
	default:
		err = s.arrive(f, now)
	}
	whole := err == nil && s.single && r.job == nil && len(s.in.queue) > 0 && !s.in.deaf
	if whole {
		m, _ := s.pop()
		r.payload, r.held, s.in.taken = m.payload, m.held, true
	}
	a.mu.Unlock()
	switch {
	case err != nil:
		a.breakStream(r, err)
	case whole:
		return a.dispatch(r)
	}
	return nil
}

// breakStream ends a stream whose caller broke a rule: its handler's context
// ends, and the call is answered when that returns.
func (a *agent) breakStream(r *Request, err error) {
	var fault *streamFault
	if !errors.As(err, &fault) {
		return
	}
	s := r.stream
	a.mu.Lock()
	s.drop(false)
	s.out.drop(&a.streams)
	s.broken = fault.failure(r.job != nil)
	waits := r.job == nil
	switch {
	case r.answered:
		a.replaceLast(s, s.broken)
	case waits:
		a.answerOnce(answer{r: r, fail: s.broken})
	}
	answered := r.answered
	a.mu.Unlock()
	if !answered && r.cancel(ErrInvalidRequest) {
		a.mu.Lock()
		s.broken = fault.failure(false)
		a.mu.Unlock()
		r.Fail(s.broken)
	}
}

// replaceLast breaks off a stream whose answer waits behind messages.
func (a *agent) replaceLast(s *Stream, f *Failure) {
	s.last = answer{r: s.request, fail: f}
	s.list()
}

// cancelledStream takes a caller's cancel of a stream, and says whether that was
// all. Under the lock, which it gives back then.
func (a *agent) cancelledStream(r *Request) bool {
	s := r.stream
	s.drop(false)
	s.out.drop(&a.streams)
	switch {
	case r.answered:
		a.replaceLast(s, cancelFailure())
	case r.job == nil: // its one message has not come
		a.answerOnce(answer{r: r, fail: cancelFailure()})
	default:
		return false
	}
	a.mu.Unlock()
	return true
}

// answerStream queues the answer of a stream behind its messages; an answer that
// breaks the stream off passes them. Under the lock.
func (a *agent) answerStream(w answer) {
	s := w.r.stream
	s.endHere()
	if w.r.cancelled || s.broken != nil {
		s.out.drop(&a.streams)
	}
	switch {
	case !s.single || w.fail != nil:
	case len(w.reply.Payload) > partBytes && a.streams.choked():
		w = answer{r: w.r, fail: Refuse(meshv1.Reason_REASON_REPLY_TOO_LARGE, "reply too large: messages of streams that wait on this link leave no room for it")}
	default:
		if len(w.reply.Headers) > 0 {
			s.headers, s.offer = w.reply.Headers, true
		}
		s.out.push(w.reply.Payload, &a.streams)
	}
	w.reply.Payload = nil
	s.last = w
	s.out.closing = true
	s.list()
}

// fillStreams gives the writer what streams may send.
func (a *agent) fillStreams(b *batch) {
	for _, s := range a.streams.fill(b) {
		if r := s.request; a.calls[r.Session] == r {
			delete(a.calls, r.Session)
			a.closeStream()
		}
	}
}

func (a *agent) closeStream() {
	a.streams.open--
	a.m.streams.Add(-1)
}

// readStreamsOn excuses the streams whose parts could not arrive.
func (a *agent) readStreamsOn(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.streams.open == 0 {
		return
	}
	for _, r := range a.calls {
		if r.stream != nil && r.stream.in.part != nil {
			r.stream.in.part.last = now
		}
	}
}

// overdueStreams finds the streams whose parts have stopped.
func (a *agent) overdueStreams(now time.Time) {
	a.mu.Lock()
	var late []*Request
	if a.streams.open > 0 {
		for _, r := range a.calls {
			if r.stream != nil && r.stream.late(now) {
				late = append(late, r)
			}
		}
	}
	a.mu.Unlock()
	for _, r := range late {
		a.breakStream(r, errLateParts)
	}
}

// releaseStreams ends the streams of a link that has ended. Under the lock.
func (a *agent) releaseStreams() {
	for _, r := range a.calls {
		if r.stream == nil {
			continue
		}
		r.stream.endHere()
		r.stream.out.drop(&a.streams)
		a.closeStream()
	}
	a.streams.ready = nil
}

// endHere ends a stream for its handler.
func (s *Stream) endHere() {
	if !s.ended {
		s.ended = true
		s.drop(false)
		close(s.over)
	}
}

// SendHeaders sends the headers of an accepted stream, before its first message.
// It fails where they have been sent.
func (s *Stream) SendHeaders(hs []Header) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	switch {
	case s.ended:
		return ErrStreamEnded
	case s.headed || s.offer || s.out.bytes > 0:
		return status.Error(codes.Internal, "the headers have been sent")
	case headerBytes(hs) > maxHeaderBytes:
		return status.Errorf(codes.Internal, "the headers are longer than %d bytes", maxHeaderBytes)
	}
	s.headers, s.offer = hs, true
	s.list()
	return nil
}

// withoutHeaders takes the headers off an answer: they have been sent.
func withoutHeaders(f frame) frame {
	f.headers = nil
	if f.failure != nil {
		f.failure.Headers = nil
	}
	return f
}
