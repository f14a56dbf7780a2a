package conformance_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// silencePatience is what a helper may be late with a heartbeat on a machine
// that is busy.
const silencePatience = 2 * time.Second

// rules are what the audits of both services share.
type rules struct {
	helper *meshv1.Hello // nil before it came
	puppet *meshv1.Hello // nil before it was sent
	found  []string
}

// breaks notes a broken rule of README.md, once each text.
func (r *rules) breaks(rule int, format string, args ...any) {
	text := fmt.Sprintf("rule %d: ", rule) + fmt.Sprintf(format, args...)
	if !slices.Contains(r.found, text) && len(r.found) < 20 {
		r.found = append(r.found, text)
	}
}

func (r *rules) faults() []string { return r.found }

func (r *rules) silent(d time.Duration) {
	interval := 2 * time.Second
	if ms := r.helper.GetHeartbeatIntervalMs(); ms > 0 {
		interval = time.Duration(ms) * time.Millisecond
	}
	if r.helper != nil && r.puppet != nil && d > interval+silencePatience {
		r.breaks(7, "nothing came for %s, the helper's interval is %s", d.Round(time.Millisecond), interval)
	}
}

func (r *rules) batch(frames, size int) {
	if limit := or(int(r.puppet.GetMaxBatchBytes()), 262144); size > limit {
		r.breaks(5, "a message of %d bytes, the puppet takes %d", size, limit)
	}
	if frames > 4096 {
		r.breaks(5, "a message of %d frames", frames)
	}
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// tookHello looks at the helper's hello.
func (r *rules) tookHello(f *meshv1.Frame, h *meshv1.Hello) {
	if r.helper != nil {
		r.breaks(1, "a second hello")
		return
	}
	r.helper = h
	if f.GetSession() != 0 || h.GetVersion() != 1 || h.GetIncarnation() == 0 || len(h.GetFeatures()) > 0 && !slices.Equal(h.GetFeatures(), []string{"streams"}) {
		r.breaks(1, "hello is wrong: %s", f)
	}
	valid := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("_-.", c)
	}
	if p := h.GetProcess(); p == "" || len(p) > 255 || strings.ContainsFunc(p, func(c rune) bool { return !valid(c) }) {
		r.breaks(1, "hello.process %q", p)
	}
}

// orderly says whether a frame may come now, by rule 1.
func (r *rules) orderly(f *meshv1.Frame) bool {
	switch {
	case f.GetHello() != nil:
		r.tookHello(f, f.GetHello())
		return false
	case r.helper == nil:
		r.breaks(1, "the first frame is no hello: %s", short(f))
	case r.puppet == nil:
		r.breaks(1, "a frame before the puppet's hello: %s", short(f))
	}
	if f.GetHeartbeat() != nil {
		if f.GetSession() != 0 {
			r.breaks(2, "a heartbeat with session %d", f.GetSession())
		}
		return false
	}
	return true
}

func (r *rules) saidHello(f *meshv1.Frame) {
	if h := f.GetHello(); h != nil && r.puppet == nil {
		r.puppet = h
	}
}

func (r *rules) headers(lists ...[]*meshv1.Header) {
	for _, list := range lists {
		size := 0
		for _, h := range list {
			size += len(h.GetKey()) + len(h.GetValue()) + 32
			if h.GetKey() != strings.ToLower(h.GetKey()) || h.GetKey() == "" {
				r.breaks(6, "a header with the key %q", h.GetKey())
			}
		}
		if size > 8192 {
			r.breaks(6, "headers of %d bytes", size)
		}
	}
}

// large is a message in parts.
type large struct{ total, got uint64 }

// begins looks at a message's first frame: what is whole returns nil.
func (r *rules) begins(session uint64, payload []byte, total uint64) *large {
	switch {
	case total == 0 && len(payload) > partBytes:
		r.breaks(3, "session %d: %d bytes in one frame", session, len(payload))
	case total != 0 && total <= partBytes:
		r.breaks(3, "session %d: total_size %d needs no parts", session, total)
	case total != 0 && len(payload) != partBytes:
		r.breaks(3, "session %d: the first frame has %d bytes of %d", session, len(payload), total)
	}
	size := max(total, uint64(len(payload)))
	if limit := or(r.puppet.GetMaxMessageBytes(), 64<<20); size > limit {
		r.breaks(5, "session %d: a message of %d bytes, the puppet takes %d", session, size, limit)
	}
	if total == 0 {
		return nil
	}
	return &large{total: total, got: uint64(len(payload))}
}

// goesOn looks at a part; it is true when the message is whole.
func (r *rules) goesOn(session uint64, l *large, n int) bool {
	l.got += uint64(n)
	if n == 0 || n > partBytes || l.got > l.total || l.got < l.total && n != partBytes {
		r.breaks(3, "session %d: a part of %d bytes that makes %d of %d", session, n, l.got, l.total)
	}
	return l.got >= l.total
}

// room looks at the messages that have begun and not ended.
func (r *rules) room(unfinished map[uint64]*large) {
	sum := uint64(0)
	for _, l := range unfinished {
		sum += max(l.total, 65536)
	}
	if limit := or(r.puppet.GetMaxUnfinishedBytes(), 64<<20); sum > limit {
		r.breaks(5, "%d bytes are unfinished, the puppet takes %d", sum, limit)
	}
}

// linkAudit is the audit of a Link stream.
type linkAudit struct {
	rules
	last       uint64
	sessions   map[uint64]*request1
	unfinished map[uint64]*large
	inflight   int
}

// request1 is what is known of a session.
type request1 struct {
	push, large, cancelled, answered bool
	answer                           *large // that has begun
}

func (a *linkAudit) took(f *meshv1.Frame) {
	if !a.orderly(f) {
		return
	}
	if a.sessions == nil {
		a.sessions, a.unfinished = map[uint64]*request1{}, map[uint64]*large{}
	}
	n := f.GetSession()
	switch b := f.GetBody().(type) {
	case *meshv1.Frame_Request:
		a.tookRequest(n, b.Request)
	case *meshv1.Frame_Part:
		a.tookPart(n, len(b.Part.GetPayload()))
	case *meshv1.Frame_Cancel:
		s := a.sessions[n]
		if s == nil {
			a.breaks(4, "a cancel of session %d, which did not begin here", n)
			return
		}
		if s.cancelled || s.push {
			a.breaks(4, "a second cancel, or one of a push: session %d", n)
		}
		s.cancelled = true
		delete(a.unfinished, n)
	default:
		a.breaks(2, "a frame that does not go upwards: %s", short(f))
	}
}

func (a *linkAudit) tookRequest(n uint64, q *meshv1.Request) {
	if n <= a.last {
		a.breaks(2, "session %d after %d", n, a.last)
	}
	a.last = max(a.last, n)
	s := &request1{push: q.GetPush()}
	a.sessions[n] = s
	if l := a.begins(n, q.GetPayload(), q.GetTotalSize()); l != nil {
		s.large = true
		a.unfinished[n] = l
		a.room(a.unfinished)
	}
	a.headers(q.GetHeaders())
	if len(q.GetMethod()) > 1024 {
		a.breaks(6, "a method of %d bytes", len(q.GetMethod()))
	}
	if q.GetAddress() == nil || q.GetHops() != 0 {
		a.breaks(2, "session %d: no address, or hops from a first caller", n)
	}
	if s.push {
		return
	}
	a.inflight++
	if limit := or(int(a.puppet.GetMaxCalls()), 16384); a.inflight > limit {
		a.breaks(5, "%d calls in flight, the puppet takes %d", a.inflight, limit)
	}
}

func (a *linkAudit) tookPart(n uint64, size int) {
	s, l := a.sessions[n], a.unfinished[n]
	switch {
	case s == nil || !s.large:
		a.breaks(4, "a part of session %d, which began no large message here", n)
	case s.cancelled:
		a.breaks(4, "a part of session %d after its cancel", n)
	case l == nil && !s.answered:
		a.breaks(4, "a part of session %d after its last", n)
	case l != nil && a.goesOn(n, l, size):
		delete(a.unfinished, n)
	}
}

func (a *linkAudit) said(f *meshv1.Frame) {
	a.saidHello(f)
	s := a.sessions[f.GetSession()]
	if s == nil || s.push || s.answered {
		return
	}
	switch b := f.GetBody().(type) {
	case *meshv1.Frame_Reply:
		if total := b.Reply.GetTotalSize(); total > 0 {
			s.answer = &large{total: total, got: uint64(len(b.Reply.GetPayload()))}
			return
		}
	case *meshv1.Frame_Failure:
	case *meshv1.Frame_Part:
		if s.answer == nil {
			return
		}
		if s.answer.got += uint64(len(b.Part.GetPayload())); s.answer.got < s.answer.total {
			return
		}
	default:
		return
	}
	s.answered = true
	a.inflight--
	delete(a.unfinished, f.GetSession())
}
