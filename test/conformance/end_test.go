package conformance_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// end is the puppet's end of one stream. A case says frames and takes what
// comes; an audit looks at everything.
type end struct {
	k       *kit
	stream  serverStream
	receive func() ([]*meshv1.Frame, int, error)
	wrap    func([]*meshv1.Frame) any
	over    chan error    // how the case ends the stream
	gone    chan struct{} // closed when the helper has ended it or half-closed
	err     error         // io.EOF where it was a half-close; when gone is closed
	hello   *meshv1.Hello // the helper's

	sending sync.Mutex

	mu      sync.Mutex
	audit   auditor
	queue   []*meshv1.Frame
	arrived chan struct{} // closed and made anew at each arrival
	gate    chan struct{} // closed while the stream is read
	partial map[uint64]*whole
	heard   time.Time // when something last came, or reading began again
	beats   int
	quiet   bool // no heartbeats
	stopped bool // as the heartbeats say
}

// auditor judges what a helper does, whatever the case is about.
type auditor interface {
	// took looks at a frame of the helper's.
	took(f *meshv1.Frame)
	// batch looks at one message of the helper's.
	batch(frames, size int)
	// said looks at a frame of the puppet's, before it is sent.
	said(f *meshv1.Frame)
	// silent looks at a time without anything from the helper.
	silent(d time.Duration)
	// faults are the rules that were broken.
	faults() []string
}

func newEnd(k *kit, s serverStream, a auditor) *end {
	e := &end{k: k, stream: s, audit: a, over: make(chan error, 1), gone: make(chan struct{}), arrived: make(chan struct{}), gate: make(chan struct{}), partial: map[uint64]*whole{}, heard: time.Now()}
	close(e.gate)
	return e
}

// pump reads the stream while the gate is open.
func (e *end) pump() {
	for {
		e.mu.Lock()
		gate := e.gate
		e.mu.Unlock()
		select {
		case <-gate:
		case <-e.stream.Context().Done():
		}
		frames, size, err := e.receive()
		e.mu.Lock()
		now := time.Now()
		e.audit.silent(now.Sub(e.heard))
		e.heard = now
		if err != nil {
			e.err = err
			e.mu.Unlock()
			close(e.gone)
			return
		}
		e.audit.batch(len(frames), size)
		for _, f := range frames {
			e.audit.took(f)
			if f.GetHeartbeat() != nil {
				e.beats++
			} else {
				e.queue = append(e.queue, f)
			}
		}
		close(e.arrived)
		e.arrived = make(chan struct{})
		e.mu.Unlock()
	}
}

// judge says what the audit found, once the case is over.
func (e *end) judge() {
	select {
	case <-e.gone:
	case <-time.After(5 * time.Second):
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, fault := range e.audit.faults() {
		e.k.Errorf("audit: %s", fault)
	}
}

// pause stops the reading; resume goes on.
func (e *end) pause() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gate = make(chan struct{})
}

func (e *end) resume() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard = time.Now()
	close(e.gate)
}

// hear is the next frame that is no heartbeat; nil when the stream has ended or
// the context has.
func (e *end) hear(ctx context.Context) *meshv1.Frame {
	for {
		e.mu.Lock()
		if len(e.queue) > 0 {
			f := e.queue[0]
			e.queue = e.queue[1:]
			e.mu.Unlock()
			return f
		}
		arrived := e.arrived
		e.mu.Unlock()
		select {
		case <-arrived:
		case <-e.gone:
			e.mu.Lock()
			empty := len(e.queue) == 0
			e.mu.Unlock()
			if empty {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// next is the next frame, which has to come.
func (e *end) next() *meshv1.Frame {
	e.k.Helper()
	ctx, cancel := context.WithTimeout(e.k.Context(), patience)
	defer cancel()
	f := e.hear(ctx)
	if f == nil {
		e.k.Fatalf("no frame came: %s", e.state())
	}
	return f
}

func (e *end) state() string {
	select {
	case <-e.gone:
		return "the helper ended the stream: " + e.err.Error()
	default:
		return "the stream lives"
	}
}

// none says that nothing but heartbeats comes for d.
func (e *end) none(d time.Duration) {
	e.k.Helper()
	ctx, cancel := context.WithTimeout(e.k.Context(), d)
	defer cancel()
	if f := e.hear(ctx); f != nil {
		e.k.Fatalf("a frame came that should not: %s", short(f))
	}
}

// rest is what comes within d.
func (e *end) rest(d time.Duration) (frames []*meshv1.Frame) {
	ctx, cancel := context.WithTimeout(e.k.Context(), d)
	defer cancel()
	for f := e.hear(ctx); f != nil; f = e.hear(ctx) {
		frames = append(frames, f)
	}
	return frames
}

// ends says that the helper ends the stream, or half-closes, within d.
func (e *end) ends(d time.Duration) {
	e.k.Helper()
	select {
	case <-e.gone:
	case <-time.After(d):
		e.k.Fatalf("the helper did not end the stream within %s", d)
	}
}

func (e *end) halfClosed() bool {
	select {
	case <-e.gone:
		return errors.Is(e.err, io.EOF)
	default:
		return false
	}
}

// say sends frames in one message. A stream that has ended takes none.
func (e *end) say(frames ...*meshv1.Frame) {
	e.mu.Lock()
	for _, f := range frames {
		e.audit.said(f)
	}
	e.mu.Unlock()
	e.sending.Lock()
	defer e.sending.Unlock()
	_ = e.stream.SendMsg(e.wrap(frames))
}

// sayRaw sends bytes as a message.
func (e *end) sayRaw(b []byte) {
	e.sending.Lock()
	defer e.sending.Unlock()
	_ = e.stream.SendMsg(raw(b))
}

// end ends the stream with a status; nil is OK.
func (e *end) end(err error) {
	select {
	case e.over <- err:
	default:
	}
}

// breaks ends the stream and lets the helper see it: nothing tells when it has.
func (e *end) breaks(err error) {
	e.end(err)
	time.Sleep(300 * time.Millisecond)
}

// takeHello is the helper's first frame.
func (e *end) takeHello() *meshv1.Hello {
	e.k.Helper()
	f := e.next()
	if e.hello = f.GetHello(); e.hello == nil {
		e.k.Fatalf("the first frame is no hello: %s", short(f))
	}
	return e.hello
}

// greet takes the helper's hello and answers it.
func (e *end) greet(set ...func(*meshv1.Hello)) {
	e.k.Helper()
	e.takeHello()
	e.sayHello(set...)
}

// sayHello says hello; from then on heartbeats go out.
func (e *end) sayHello(set ...func(*meshv1.Hello)) {
	h := &meshv1.Hello{Version: 1, Process: "puppet", Incarnation: 7}
	for _, f := range set {
		f(h)
	}
	e.say(&meshv1.Frame{Body: &meshv1.Frame_Hello{Hello: h}})
	go e.beat()
}

func (e *end) beat() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-e.stream.Context().Done():
			return
		}
		e.mu.Lock()
		quiet, stopped := e.quiet, e.stopped
		e.mu.Unlock()
		if !quiet {
			e.say(heartbeat(stopped))
		}
	}
}

// silent stops the puppet's heartbeats.
func (e *end) silent() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.quiet = true
}

// stopReading says that it has stopped and stops; readAgain goes on.
func (e *end) stopReading() {
	e.pause()
	e.mu.Lock()
	e.stopped = true
	e.mu.Unlock()
	e.say(heartbeat(true))
}

func (e *end) readAgain() {
	e.mu.Lock()
	e.stopped = false
	e.mu.Unlock()
	e.say(heartbeat(false))
	e.resume()
}

func (e *end) heartbeats() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.beats
}

// whole is a message that has arrived as a whole.
type whole struct {
	session  uint64
	frame    *meshv1.Frame // its first
	payload  []byte
	expected uint64
}

func (w *whole) request() *meshv1.Request { return w.frame.GetRequest() }
func (w *whole) method() string           { return w.request().GetMethod() }

// join adds a frame to the messages that are not whole. It returns the message
// when it is.
func (e *end) join(f *meshv1.Frame) *whole {
	s := f.GetSession()
	w := e.partial[s]
	switch {
	case f.GetRequest() != nil:
		w = &whole{session: s, frame: f, payload: f.GetRequest().GetPayload(), expected: f.GetRequest().GetTotalSize()}
	case f.GetReply() != nil:
		w = &whole{session: s, frame: f, payload: f.GetReply().GetPayload(), expected: f.GetReply().GetTotalSize()}
	case f.GetPart() != nil && w != nil:
		w.payload = append(w.payload, f.GetPart().GetPayload()...)
	default:
		return nil
	}
	if uint64(len(w.payload)) >= w.expected {
		delete(e.partial, s)
		return w
	}
	e.partial[s] = w
	return nil
}

// whole is the next message that is whole; other frames are an error.
func (e *end) whole() *whole {
	e.k.Helper()
	for {
		f := e.next()
		if w := e.join(f); w != nil {
			return w
		}
		if f.GetRequest() == nil && f.GetReply() == nil && f.GetPart() == nil {
			e.k.Fatalf("got %s, want a message", short(f))
		}
	}
}

// echo answers every call with its payload until the stream ends.
func (e *end) echo() {
	for {
		f := e.hear(e.k.Context())
		if f == nil {
			if e.halfClosed() {
				e.end(nil)
			}
			return
		}
		if w := e.join(f); w != nil && w.request() != nil && !w.request().GetPush() {
			e.reply(w.session, w.payload)
		}
	}
}

// reply sends a reply of any size.
func (e *end) reply(session uint64, payload []byte) {
	for _, f := range replyFrames(session, payload) {
		e.say(f)
	}
}

// short is a frame for people.
func short(f *meshv1.Frame) string {
	f = proto.CloneOf(f)
	for _, b := range []*[]byte{payloadOf(f)} {
		if b != nil && len(*b) > 32 {
			*b = append((*b)[:32:32], "..."...)
		}
	}
	return f.String()
}

func payloadOf(f *meshv1.Frame) *[]byte {
	switch b := f.GetBody().(type) {
	case *meshv1.Frame_Request:
		return &b.Request.Payload
	case *meshv1.Frame_Reply:
		return &b.Reply.Payload
	case *meshv1.Frame_Part:
		return &b.Part.Payload
	}
	return nil
}
