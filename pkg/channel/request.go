package channel

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// Dispatcher finds the service of what has arrived. Its methods are called on
// the reader of a link and must not block.
type Dispatcher interface {
	// New returns an empty Request, which may be part of a larger object of the
	// dispatcher's: Owner then leads from one to the other.
	New() *Request
	// Resolve says early, by the first frame of a large message or of a stream,
	// why it cannot be placed; nil where it can. stream says that the service
	// takes a stream as one: where it does not, the stream's one message is placed
	// as a call.
	Resolve(r *Request) (stream bool, refused *Failure)
	// Dispatch places a whole message, after which it is answered with Reply or
	// Fail once, if it is a call. It may refuse it instead. Where a push finds
	// its service's queue full it is not placed: Dispatch returns a channel
	// that is closed when it may be tried again.
	Dispatch(r *Request) (room <-chan struct{}, refused *Failure)
}

// Job is a call or push that was placed.
type Job interface {
	// Cancel ends the context of its handler for the given cause. It returns
	// true where the handler never started, and now never will. It is called
	// for calls: when the caller cancels, when their link ends, and, for those
	// that have not started, when the process has drained long enough.
	Cancel(cause error) (neverStarted bool)
}

// Request is one message as it arrived, and the way back for its answer. What
// is in it belongs to whoever handles it.
type Request struct {
	Peer    *Peer
	Session uint64
	Name    string // of the service, with its sign; "" where Handle says it
	Handle  uint64
	Method  string
	Push    bool
	Headers []Header
	Tag     string    // skynet trace tag
	Due     time.Time // deadline, zero for none
	Hops    uint32    // links that it went over before this one
	// OnBehalf is for whom the peer says that it asks. Whether that is believed is
	// for the dispatcher to say.
	OnBehalf string
	Owner    any // the dispatcher's own

	agent     *agent
	payload   []byte
	held      *held // instead of payload: as it arrived
	job       Job
	passed    *call   // what a Program has of it; under that one's lock
	join      *joiner // while parts arrive
	joinSize  int64   // weight of the whole, while parts arrive
	cancelled bool
	excused   bool // Close does not wait for it
	answered  bool
	stream    *Stream // where it is one
}

// Stream is this end of the stream that the request opened; nil where it is a
// call or a push.
func (r *Request) Stream() *Stream {
	if r.stream == nil || r.stream.single {
		return nil
	}
	return r.stream
}

// TakePayload returns the payload, once: a large one is put together here, by
// whoever wants it, and not by the reader of its link.
func (r *Request) TakePayload() []byte {
	p := r.payload
	if r.held != nil {
		p = r.held.join()
	}
	r.DropPayload()
	return p
}

// DropPayload forgets the payload of a message that is not run.
func (r *Request) DropPayload() { r.payload, r.held = nil, nil }

func (r *Request) length() int {
	if r.held != nil {
		return r.held.size
	}
	return len(r.payload)
}

// Size is what the message counts against a bound.
func (r *Request) Size() int64 {
	return int64(r.length()+len(r.Name)+len(r.Method)+len(r.Tag)+messageOverhead) + headerBytes(r.Headers)
}

// Reply answers a call with the handler's result. The reply's bytes are given
// away. It never blocks, and does nothing for a push, or where the link has
// ended.
func (r *Request) Reply(rep Reply) {
	a := r.agent
	n, limit := int64(len(rep.Payload)), min(a.limits.message, a.opt.Limits.MessageBytes)
	switch {
	case headerBytes(rep.Headers)+headerBytes(rep.Trailers) > maxHeaderBytes:
		r.Fail(&Failure{Reason: meshv1.Reason_REASON_HANDLER, Code: codes.Internal,
			Message: fmt.Sprintf("the reply's headers and trailers are longer than %d bytes", maxHeaderBytes)})
		return
	case n > limit, n > partBytes && weight(uint64(n)) > a.limits.unfinished && r.stream == nil:
		r.Fail(Refuse(meshv1.Reason_REASON_REPLY_TOO_LARGE, fmt.Sprintf("reply too large: %d bytes; at most %d are taken", n, min(limit, a.limits.unfinished))))
		return
	}
	a.answer(answer{r: r, reply: rep})
}

// Fail answers a call with a failure, as Reply does with a result. Texts and
// details beyond their bounds are cut and dropped.
func (r *Request) Fail(f *Failure) { r.agent.answer(answer{r: r, fail: f}) }

// Place says who runs the message. The dispatcher calls it before that starts,
// and does not place the message where it returns false: it was refused.
func (r *Request) Place(j Job) bool {
	if r.Push { // nobody can cancel it
		return true
	}
	r.agent.mu.Lock()
	defer r.agent.mu.Unlock()
	a := r.agent
	switch {
	case r.answered || a.ctx.Err() != nil:
		return false
	case r.cancelled:
		if a.answerOnce(answer{r: r, fail: cancelFailure()}) {
			a.wake()
		}
		return false
	}
	r.job = j
	return true
}

// Placed returns what Place was given, or nil.
func (r *Request) Placed() Job {
	r.agent.mu.Lock()
	defer r.agent.mu.Unlock()
	return r.job
}

// cancel ends the job, and says whether it never started.
func (r *Request) cancel(cause error) bool {
	j := r.Placed()
	return j != nil && j.Cancel(cause)
}

// Ended says that the link is gone: nobody waits for an answer.
func (r *Request) Ended() bool { return r.agent.ctx.Err() != nil }

// wire brings a failure into the bounds of the protocol.
func (f *Failure) wire() *meshv1.Failure {
	w := &meshv1.Failure{
		Reason: f.Reason, Code: uint32(f.Code), Message: cutText(f.Message, maxErrorText),
		Details: f.Details, Headers: headersToWire(f.Headers), Trailers: headersToWire(f.Trailers),
	}
	size := 0
	for _, d := range f.Details {
		size += proto.Size(d)
	}
	if size > maxDetailBytes {
		w.Details = nil
	}
	if headerBytes(f.Headers)+headerBytes(f.Trailers) > maxHeaderBytes {
		w.Headers, w.Trailers = nil, nil
	}
	if _, err := proto.Marshal(w); err != nil {
		w.Details, w.Headers, w.Trailers = nil, nil, nil // what protobuf cannot carry
	}
	return w
}

// request makes the Request of a first frame and says what is wrong with it.
func (a *agent) request(f *frame, now time.Time) (*Request, *Failure) {
	r := a.opt.Dispatcher.New()
	r.Peer, r.Session, r.Name, r.Handle, r.Method, r.Push = &a.peer, f.session, f.name, f.handle, f.method, f.push
	r.payload, r.held, r.Headers, r.Tag, r.Hops, r.OnBehalf, r.agent = f.payload, f.held, f.headers, f.tag, f.hops, f.onBehalf, a
	if f.timeLeft > 0 {
		r.Due = now.Add(time.Duration(min(f.timeLeft, uint64(maxTimeLeft.Microseconds()))) * time.Microsecond)
	}
	wrong := ""
	switch {
	case f.bad != "":
		wrong = f.bad
	case f.kind >= kindMessage:
		wrong = "no stream of this session was opened"
	case f.kind != kindRequest:
		wrong = "the frame has no body that this version knows"
	case !f.addressed:
		wrong = "it has no address: set name or handle"
	case len(f.method) > maxMethodBytes:
		wrong = fmt.Sprintf("the method is longer than %d bytes", maxMethodBytes)
	case headerBytes(f.headers)+int64(len(f.tag)) > maxHeaderBytes:
		wrong = fmt.Sprintf("the headers are longer than %d bytes", maxHeaderBytes)
	case len(f.onBehalf) > maxNameBytes:
		wrong = fmt.Sprintf("on_behalf is longer than %d bytes", maxNameBytes)
	case f.hops >= MaxHops:
		return r, Refuse(meshv1.Reason_REASON_LOOP, loopText)
	case f.stream && !a.limits.knowsStreams():
		wrong = "a stream, where its hello does not say the feature \"streams\""
	case f.stream && f.push:
		wrong = "a stream cannot be a push"
	case f.stream && (f.length() > 0 || f.total > 0):
		wrong = "a stream is opened without payload: send messages"
	case f.total == 0 && f.length() > partBytes:
		wrong = fmt.Sprintf("a payload of more than %d bytes travels in parts: set total_size", partBytes)
	case int64(f.length()) > a.opt.Limits.MessageBytes:
		return r, a.tooLarge(uint64(f.length()))
	default:
		return r, nil
	}
	return r, Refuse(meshv1.Reason_REASON_INVALID_REQUEST, "invalid request: "+wrong)
}

// maxTimeLeft is the longest deadline that is believed: further ones overflow.
const maxTimeLeft = 100 * 365 * 24 * time.Hour

// joining takes the first frame of a large request, which is refused early
// where that is certain.
func (a *agent) joining(r *Request, f *frame, now time.Time) *Failure {
	if f.total > uint64(a.opt.Limits.MessageBytes) {
		return a.tooLarge(f.total)
	}
	join, err := newJoiner(f, now)
	if err != nil {
		return invalidLarge(err)
	}
	if _, refused := a.opt.Dispatcher.Resolve(r); refused != nil {
		return refused
	}
	w := weight(f.total)
	if a.unfinished+w > a.opt.Limits.UnfinishedBytes {
		return Refuse(meshv1.Reason_REASON_OVERLOADED, fmt.Sprintf("overloaded: unfinished messages on this link, at most %d bytes", a.opt.Limits.UnfinishedBytes))
	}
	if a.m.parts.Add(w) > a.opt.Limits.UnfinishedRequests {
		a.m.parts.Add(-w)
		return Refuse(meshv1.Reason_REASON_OVERLOADED, fmt.Sprintf("overloaded: unfinished requests in this process, at most %d bytes", a.opt.Limits.UnfinishedRequests))
	}
	a.unfinished += w
	r.join, r.joinSize = join, w
	r.DropPayload()
	a.joins[r.Session] = r
	return nil
}

func (a *agent) tooLarge(n uint64) *Failure {
	return Refuse(meshv1.Reason_REASON_TOO_LARGE, fmt.Sprintf("too large: %d bytes; at most %d are taken", n, a.opt.Limits.MessageBytes))
}

// unjoin forgets what has arrived of a large request.
func (a *agent) unjoin(r *Request) {
	if r.join == nil {
		return
	}
	delete(a.joins, r.Session)
	a.unfinished -= r.joinSize
	a.m.parts.Add(-r.joinSize)
	r.join = nil
}

// overdue fails the large requests whose parts have stopped arriving.
func (a *agent) overdue(now time.Time) {
	a.overdueStreams(now)
	for _, r := range a.joins {
		if now.Sub(r.join.last) >= partTimeout {
			a.unjoin(r)
			a.refuse(r, invalidLarge(fmt.Errorf("no part for %s", partTimeout)))
		}
	}
}

func invalidLarge(err error) *Failure {
	return Refuse(meshv1.Reason_REASON_INVALID_REQUEST, "invalid large request: "+err.Error())
}
