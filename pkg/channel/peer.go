package channel

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// Peer is what a process knows of the one at the other end of a link.
type Peer struct {
	Process     string // the name in its hello
	Incarnation uint32
	Node        string   // the node name by which the dialler came
	Addr        string   // its network address
	Identity    []string // the names that it proved to have, see Security; nil where it proved none
}

// version of the protocol that this package speaks.
const version = 1

// featureStreams is said by who knows streams.
const featureStreams = "streams"

const (
	minSilence  = 6 * time.Second  // the least silence after which a link is dead (M37)
	partTimeout = 30 * time.Second // for the next part of a large message (M41)
	sendTimeout = 30 * time.Second // for one Send, before the peer is a slow consumer (M37)
	maxInterval = time.Hour        // the longest heartbeat interval that is believed
)

// versionError says that a peer speaks another version of the protocol.
type versionError uint32

// Error is the sentence for the peer.
func (v versionError) Error() string {
	return fmt.Sprintf("protocol version %d is not spoken here; use %d", uint32(v), version)
}

var errTwoReplies = errors.New("it has two beginnings")

// hello makes this process's own.
func (o *Options) hello(node string) *meshv1.Hello {
	return &meshv1.Hello{
		Version: version, Process: o.Process, Node: node, Incarnation: o.Incarnation,
		HeartbeatIntervalMs: uint32(o.Heartbeat.Milliseconds()),
		MaxBatchBytes:       uint32(o.Limits.BatchBytes),
		MaxMessageBytes:     uint64(o.Limits.MessageBytes),
		MaxUnfinishedBytes:  uint64(o.Limits.UnfinishedBytes),
		MaxCalls:            uint32(o.Limits.CallsInFlight),
		Features:            []string{featureStreams},
		StreamWindowBytes:   uint32(o.Limits.StreamWindow),
		MaxStreams:          uint32(o.Limits.LinkStreams),
	}
}

// readHello checks a peer's hello. The error is a sentence for the peer.
func readHello(h *meshv1.Hello) (Peer, peerLimits, error) {
	fail := func(format string, args ...any) (Peer, peerLimits, error) {
		return Peer{}, peerLimits{}, fmt.Errorf(format, args...)
	}
	if h.GetVersion() != version {
		return Peer{}, peerLimits{}, versionError(h.GetVersion())
	}
	if err := CheckProcess(h.GetProcess()); err != nil {
		return fail("hello.process: %w", err)
	}
	if h.GetIncarnation() == 0 {
		return fail("hello.incarnation is 0; choose a random one at start")
	}
	if h.GetNode() != "" {
		if err := CheckNode(h.GetNode()); err != nil {
			return fail("hello.node: %w", err)
		}
	}
	d := Limits{}.WithDefaults()
	interval := time.Duration(or(int64(h.GetHeartbeatIntervalMs()), 2000)) * time.Millisecond
	return Peer{Process: h.GetProcess(), Incarnation: h.GetIncarnation(), Node: h.GetNode()}, peerLimits{
		batch:      min(max(or(int(h.GetMaxBatchBytes()), d.BatchBytes), minBatchBytes), maxBatchBytes),
		message:    fromWire(h.GetMaxMessageBytes(), d.MessageBytes),
		unfinished: fromWire(h.GetMaxUnfinishedBytes(), d.UnfinishedBytes),
		calls:      or(int(h.GetMaxCalls()), d.CallsInFlight),
		silence:    max(minSilence, 3*min(interval, maxInterval)),
		streams:    streamLimit(h, d),
		window:     fromWire(uint64(h.GetStreamWindowBytes()), d.StreamWindow),
	}, nil
}

// streamLimit is how many streams a peer takes; 0 where it knows none.
func streamLimit(h *meshv1.Hello, d Limits) int {
	if !slices.Contains(h.GetFeatures(), featureStreams) {
		return 0
	}
	return or(int(h.GetMaxStreams()), d.LinkStreams)
}

// fromWire reads a bound that a peer names; 0 is the default.
func fromWire(v uint64, otherwise int64) int64 {
	if v == 0 {
		return otherwise
	}
	return int64(min(v, 1<<62))
}

// CheckProcess says what is wrong with a process name: 1 to 255 letters,
// digits, '_', '-' and '.'.
func CheckProcess(name string) error {
	if len(name) == 0 || len(name) > maxNameBytes {
		return fmt.Errorf("a process name has 1 to %d bytes; this one has %d", maxNameBytes, len(name))
	}
	for _, r := range name {
		if !processRune(r) {
			return fmt.Errorf("a process name has letters, digits, '_', '-' and '.'; %q is none of them", r)
		}
	}
	return nil
}

func processRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' || r == '.'
}

// ProcessName makes a process name of any text: other characters become '-'.
func ProcessName(s string) string {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if !processRune(r) {
			r = '-'
		}
		b = append(b, byte(r))
	}
	if len(b) == 0 {
		return "-"
	}
	return string(b[:min(len(b), maxNameBytes)])
}

func codeFromWire(c uint32) codes.Code {
	if c > uint32(codes.Unauthenticated) {
		return codes.Unknown
	}
	return codes.Code(c)
}

func headersFromWire(hs []*meshv1.Header) []Header {
	out := make([]Header, 0, len(hs))
	for _, h := range hs {
		out = append(out, Header{h.GetKey(), h.GetValue()})
	}
	return out
}

func headersToWire(hs []Header) []*meshv1.Header {
	out := make([]*meshv1.Header, 0, len(hs))
	for _, h := range hs {
		out = append(out, &meshv1.Header{Key: h.Key, Value: h.Value})
	}
	return out
}

func tooLarge(size, limit int64, who string) *Error {
	return NewError(NotSent, ErrTooLarge, fmt.Sprintf("too large: %d bytes; %s takes at most %d", size, who, limit))
}

func badReply(err error) *Error {
	return NewError(MaybeExecuted, ErrInvalidRequest, "invalid large reply: "+err.Error())
}
