package channel

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// M56: the table of limits.
func TestDefaultLimits(t *testing.T) {
	want := Limits{
		LineCalls: 16384, LinePushBytes: 4 << 20, CallsInFlight: 16384, QueueMessages: 16384, QueueBytes: 128 << 20, ServiceWaiting: 1024,
		LinkReplyBytes: 128 << 20, ReplyBytes: 512 << 20, UnfinishedBytes: 64 << 20, UnfinishedRequests: 256 << 20,
		MessageBytes: 64 << 20, BatchBytes: 256 << 10, WindowBytes: 1 << 20, Links: 1024, ProgramBytes: 32 << 20, ProgramNames: 64, UnaryCalls: 1024,
		LinkStreams: 4096, Streams: 16384, StreamWindow: 64 << 10, StreamMessages: 256 << 20,
	}
	if got := (Limits{}).WithDefaults(); got != want {
		t.Errorf("the defaults are\n%+v, want\n%+v", got, want)
	}
	if got := want.WithDefaults(); got != want {
		t.Error("defaults of the defaults differ")
	}
}

// Whatever is set stays, and no field is forgotten.
func TestSetLimitsStay(t *testing.T) {
	var l Limits
	v := reflect.ValueOf(&l).Elem()
	for i := range v.NumField() {
		v.Field(i).SetInt(int64(100000 + i))
	}
	if got := l.WithDefaults(); got != l {
		t.Errorf("%+v became\n%+v", l, got)
	}
	for in, want := range map[int]int{-5: 256 << 10, 1: 64 << 10, 64 << 10: 64 << 10, 1 << 20: 1 << 20, 1<<20 + 1: 1 << 20} {
		if got := (Limits{BatchBytes: in}).WithDefaults().BatchBytes; got != want {
			t.Errorf("BatchBytes %d becomes %d, want %d", in, got, want)
		}
	}
}

// M56: the sums that are printed at the start.
func TestSumsOfLimits(t *testing.T) {
	one, all := (Limits{}).PerPeer(), (Limits{}).AllPeers()
	if one != 2*128<<20+64<<20+32<<20+256<<10+4096*(192<<10+128) {
		t.Errorf("one peer: %d", one)
	}
	if all <= one || all >= 1024*one {
		t.Errorf("all peers: %d", all)
	}
}

// M31, M40, M41, M56, F39: a hello is read with care.
func TestReadHello(t *testing.T) {
	ok := func() *meshv1.Hello { return &meshv1.Hello{Version: 1, Process: "p", Incarnation: 1} }
	peer, l, err := readHello(ok())
	want := peerLimits{batch: 256 << 10, message: 64 << 20, unfinished: 64 << 20, calls: 16384, silence: 6 * time.Second, window: 64 << 10}
	if err != nil || l != want || !reflect.DeepEqual(peer, Peer{Process: "p", Incarnation: 1}) {
		t.Errorf("%+v %+v %v", peer, l, err)
	}
	h := ok()
	h.HeartbeatIntervalMs, h.MaxBatchBytes, h.MaxMessageBytes = math.MaxUint32, math.MaxUint32, math.MaxUint64
	h.MaxUnfinishedBytes, h.MaxCalls, h.Features = math.MaxUint64, math.MaxUint32, []string{"streams"}
	h.StreamWindowBytes, h.MaxStreams = math.MaxUint32, math.MaxUint32
	_, l, err = readHello(h)
	want = peerLimits{batch: 1 << 20, message: 1 << 62, unfinished: 1 << 62, calls: math.MaxUint32, silence: 3 * time.Hour, streams: math.MaxUint32, window: math.MaxUint32}
	if err != nil || l != want {
		t.Errorf("%+v %v", l, err)
	}
	for text, change := range map[string]func(*meshv1.Hello){
		"protocol version 0 is not spoken here; use 1":        func(h *meshv1.Hello) { h.Version = 0 },
		"protocol version 2 is not spoken here; use 1":        func(h *meshv1.Hello) { h.Version = 2 },
		"hello.incarnation is 0; choose a random one":         func(h *meshv1.Hello) { h.Incarnation = 0 },
		"hello.process: a process name has 1 to 255 bytes":    func(h *meshv1.Hello) { h.Process = "" },
		"hello.process: a process name has letters, digits, ": func(h *meshv1.Hello) { h.Process = "a\nb" },
		"hello.node: ": func(h *meshv1.Hello) { h.Node = "__x" },
	} {
		h := ok()
		change(h)
		if _, _, err := readHello(h); err == nil || !strings.HasPrefix(err.Error(), text) {
			t.Errorf("%v, want %s", err, text)
		}
	}
	if _, _, err := readHello(nil); err == nil {
		t.Error("no hello is one")
	}
}

// A process says of itself what readHello takes.
func TestOwnHelloIsRead(t *testing.T) {
	o := Options{Process: ProcessName("häst 1\n"), Incarnation: 5, Limits: Limits{}.WithDefaults(), Heartbeat: 2 * time.Second}
	peer, l, err := readHello(o.hello("db"))
	if err != nil || peer.Process != "h-st-1-" || peer.Node != "db" || l.batch != o.Limits.BatchBytes || l.message != o.Limits.MessageBytes {
		t.Errorf("%+v %+v %v", peer, l, err)
	}
	if ProcessName("") != "-" || len(ProcessName(strings.Repeat("é", 300))) != 255 {
		t.Error("a process name of nothing, or of too much")
	}
}

// F37, M56: what is wrong with a request is said in words.
func TestWrongRequests(t *testing.T) {
	a := &agent{opt: &Options{Limits: Limits{}.WithDefaults(), Dispatcher: nowhere{}}}
	long := strings.Repeat("x", 10000)
	for want, f := range map[string]frame{
		"":                               {kind: kindRequest, addressed: true},
		"has no body that this version":  {},
		"it has no address: set name or": {kind: kindRequest},
		"the method is longer than 1024": {kind: kindRequest, addressed: true, method: long},
		"the headers are longer than 81": {kind: kindRequest, addressed: true, headers: []Header{{"k", []byte(long)}}},
		"headers are longer than 8192":   {kind: kindRequest, addressed: true, tag: long},
		"payload of more than 32768 byt": {kind: kindRequest, addressed: true, payload: make([]byte, partBytes+1)},
		"the name is empty":              {kind: kindRequest, addressed: true, bad: emptyNameText},
	} {
		_, refused := a.request(&f, time.Time{})
		switch {
		case refused == nil && want == "":
		case refused == nil || want == "" || !strings.Contains(refused.Message, want) || refused.Reason != meshv1.Reason_REASON_INVALID_REQUEST:
			t.Errorf("%+v, want %q", refused, want)
		}
	}
}

const emptyNameText = "the name is empty"

// M56: a header counts even where it is empty: else a request of two bytes for
// each holds forty for each, and counts nothing.
func TestEmptyHeadersAreBounded(t *testing.T) {
	a := &agent{opt: &Options{Limits: Limits{}.WithDefaults(), Dispatcher: nowhere{}}}
	f := frame{kind: kindRequest, addressed: true, headers: make([]Header, 100000)}
	if r, refused := a.request(&f, time.Time{}); refused == nil && r.Size() < 16*100000 {
		t.Errorf("100000 headers count %d bytes", r.Size())
	}
}

// M31: no deadline of a peer's overflows.
func TestFarDeadlines(t *testing.T) {
	a := &agent{opt: &Options{Limits: Limits{}.WithDefaults(), Dispatcher: nowhere{}}}
	now := time.Unix(1e9, 0)
	for left, want := range map[uint64]time.Time{0: {}, 1: now.Add(time.Microsecond), math.MaxUint64: now.Add(maxTimeLeft)} {
		f := frame{kind: kindRequest, addressed: true, timeLeft: left}
		if r, _ := a.request(&f, now); !r.Due.Equal(want) {
			t.Errorf("%d us left: due %s, want %s", left, r.Due, want)
		}
	}
}

// nowhere is a dispatcher that places nothing.
type nowhere struct{}

func (nowhere) New() *Request                                 { return new(Request) }
func (nowhere) Resolve(*Request) (bool, *Failure)             { return false, nil }
func (nowhere) Dispatch(*Request) (<-chan struct{}, *Failure) { return nil, nil }
