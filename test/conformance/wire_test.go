package conformance_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
)

// fields are those of one op.
type fields map[string]any

// with returns the fields and those of more, which win.
func (f fields) with(more ...fields) fields {
	all := maps.Clone(f)
	for _, m := range more {
		maps.Copy(all, m)
	}
	return all
}

// fill is a payload of size bytes as an op tells it; pattern has the bytes.
func fill(size, seed int) fields {
	return fields{"fill": fields{"size": size, "seed": seed}}
}

func pattern(size, seed int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i*31 + (i>>8)*7 + seed)
	}
	return b
}

// text is a payload given as it is.
func text(s string) fields {
	return fields{"data": base64.StdEncoding.EncodeToString([]byte(s))}
}

// timeout is a call's deadline in milliseconds.
func timeout(ms int) fields { return fields{"timeout_ms": ms} }

var waitUp = fields{"wait_up": true}

// pairs are headers.
type pairs [][2]string

func (p pairs) all(key string) (values []string) {
	for _, kv := range p {
		if kv[0] == key {
			values = append(values, kv[1])
		}
	}
	return values
}

// payload is one as answers and events tell it.
type payload struct {
	Size   int    `json:"size"`
	SHA256 string `json:"sha256"`
	Data   string `json:"data"`
}

// holds says how the payload differs from want, or nothing.
func (p payload) holds(want []byte) error {
	sum := sha256.Sum256(want)
	if p.Size != len(want) || p.SHA256 != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("a payload of %d bytes with hash %.12s, want %d bytes with hash %.12s", p.Size, p.SHA256, len(want), hex.EncodeToString(sum[:]))
	}
	if got, err := base64.StdEncoding.DecodeString(p.Data); len(want) <= 4096 && (err != nil || string(got) != string(want)) {
		return fmt.Errorf("data %.40q differs from its hash", p.Data)
	}
	return nil
}

func (p payload) String() string {
	got, _ := base64.StdEncoding.DecodeString(p.Data)
	return string(got)
}

// anyJSON is a detail of a status.
type anyJSON struct {
	TypeURL string `json:"type_url"`
	Value   string `json:"value"`
}

// failed is the error of an op.
type failed struct {
	Verdict  string    `json:"verdict"`
	Reason   string    `json:"reason"`
	Code     int       `json:"code"`
	Message  string    `json:"message"`
	Details  []anyJSON `json:"details"`
	Headers  pairs     `json:"headers"`
	Trailers pairs     `json:"trailers"`
}

func (f *failed) String() string {
	if f == nil {
		return "no error"
	}
	return fmt.Sprintf("%s, reason %q, code %d: %.200s", f.Verdict, f.Reason, f.Code, f.Message)
}

// answer is what came back for one op.
type answer struct {
	ID       int     `json:"id"`
	OK       bool    `json:"ok"`
	Error    *failed `json:"error"`
	Headers  pairs   `json:"headers"`
	Trailers pairs   `json:"trailers"`
	Handle   string  `json:"handle"`
	JSON     any     `json:"json"`
	payload

	Language string   `json:"language"`
	Helper   string   `json:"helper"`
	GRPC     string   `json:"grpc"`
	Features []string `json:"features"`
}

// event is what a driver tells unasked.
type event struct {
	Event      string  `json:"event"`
	Serve      string  `json:"serve"`
	Request    int     `json:"request"`
	Name       string  `json:"name"`
	Method     string  `json:"method"`
	Push       bool    `json:"push"`
	Headers    pairs   `json:"headers"`
	TraceTag   string  `json:"trace_tag"`
	TimeLeftMS float64 `json:"time_left_ms"`
	payload
}
