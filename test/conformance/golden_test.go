package conformance_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"reflect"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// goldenFile has frames that every language decodes and encodes to the same
// meaning. go test -run TestGolden -update writes it from what is below.
const goldenFile = "golden/frames.json"

// golden is one frame of the file.
type golden struct {
	Name    string          `json:"name"`
	Message string          `json:"message"`
	Hex     string          `json:"hex"`
	JSON    json.RawMessage `json:"json"`
	Lossy   bool            `json:"lossy,omitempty"`
}

// goldenMessages are the frames, each with all the fields that its body has.
func goldenMessages() (names []string, messages map[string]proto.Message) {
	detail, err := anypb.New(&meshv1.PingRequest{Payload: []byte{0, 1, 255}})
	if err != nil {
		panic(err)
	}
	headers := []*meshv1.Header{{Key: "key", Value: []byte("väl ue")}, {Key: "key", Value: nil}, {Key: "raw-bin", Value: []byte{0, 254, 255}}}
	large := pattern(300, 1)
	messages = map[string]proto.Message{}
	add := func(name string, m proto.Message) { names = append(names, name); messages[name] = m }
	frame := func(name string, f *meshv1.Frame) { add(name, f) }
	frame("hello", &meshv1.Frame{Body: &meshv1.Frame_Hello{Hello: &meshv1.Hello{
		Version: 1, Process: "host-1.x", Node: "db", Incarnation: math.MaxUint32, Features: []string{"streams", "later"}, HeartbeatIntervalMs: 2000,
		MaxBatchBytes: 262144, MaxMessageBytes: 1 << 40, MaxUnfinishedBytes: math.MaxUint64, MaxCalls: 16384, StreamWindowBytes: 65536,
	}}})
	frame("hello, empty", &meshv1.Frame{Body: &meshv1.Frame_Hello{Hello: &meshv1.Hello{}}})
	frame("request by name", &meshv1.Frame{Session: 1, Body: &meshv1.Frame_Request{Request: &meshv1.Request{
		Address: &meshv1.Request_Name{Name: "@sdb"}, Method: "/simpledb.v1.SimpleDBService/Get", TimeLeftUs: 1, Headers: headers, TraceTag: "(a-b-1)tag",
		Payload: []byte{0, 1, 2, 255}, Hops: 7, OnBehalf: "spiffe://td/user",
	}}})
	frame("request by handle 0", request0())
	frame("request by handle", &meshv1.Frame{Session: math.MaxUint64, Body: &meshv1.Frame_Request{Request: &meshv1.Request{Address: &meshv1.Request_Handle{Handle: math.MaxUint64}, Push: true, TimeLeftUs: math.MaxUint64}}})
	frame("request by an empty name", &meshv1.Frame{Session: 3, Body: &meshv1.Frame_Request{Request: &meshv1.Request{Address: &meshv1.Request_Name{}}}})
	frame("large request", &meshv1.Frame{Session: 1 << 53, Body: &meshv1.Frame_Request{Request: &meshv1.Request{Address: &meshv1.Request_Name{Name: ".überall"}, Payload: large, TotalSize: 1 << 20}}})
	frame("stream request", &meshv1.Frame{Session: 4, Body: &meshv1.Frame_Request{Request: &meshv1.Request{Address: &meshv1.Request_Name{Name: "@s"}, Stream: true}}})
	frame("reply", &meshv1.Frame{Session: 5, Body: &meshv1.Frame_Reply{Reply: &meshv1.Reply{Payload: []byte("x"), TotalSize: 1 << 33, Headers: headers, Trailers: headers[2:]}}})
	frame("reply, empty", &meshv1.Frame{Session: 5, Body: &meshv1.Frame_Reply{Reply: &meshv1.Reply{}}})
	frame("failure", &meshv1.Frame{Session: 6, Body: &meshv1.Frame_Failure{Failure: &meshv1.Failure{
		Reason: meshv1.Reason_REASON_HANDLER, Code: 15, Message: "lost: " + umlauts, Details: []*anypb.Any{detail, detail}, Headers: headers[:1], Trailers: headers[1:],
	}}})
	frame("failure, every reason's last", &meshv1.Frame{Session: 6, Body: &meshv1.Frame_Failure{Failure: &meshv1.Failure{Reason: meshv1.Reason_REASON_INVALID_REQUEST, Code: 3}}})
	frame("part", part(7, large))
	frame("cancel", cancel(127))
	frame("cancel of session 128", cancel(128))
	frame("goaway", goaway(1<<63))
	frame("heartbeat", heartbeat(false))
	frame("heartbeat, stopped", heartbeat(true))
	frame("register", &meshv1.Frame{Session: 1, Body: &meshv1.Frame_Register{Register: &meshv1.Register{Name: "@model", Shared: true}}})
	frame("unregister", &meshv1.Frame{Session: 2, Body: &meshv1.Frame_Unregister{Unregister: &meshv1.Unregister{Name: "@model"}}})
	frame("registered", &meshv1.Frame{Session: 2, Body: &meshv1.Frame_Registered{Registered: &meshv1.Registered{Handle: 0x5f3a9c1200000001}}})
	frame("message of a stream", &meshv1.Frame{Session: 3, Body: &meshv1.Frame_Message{Message: &meshv1.StreamMessage{Payload: []byte("m"), TotalSize: 40000}}})
	frame("half_close", &meshv1.Frame{Session: 3, Body: &meshv1.Frame_HalfClose{HalfClose: &meshv1.HalfClose{}}})
	frame("window", &meshv1.Frame{Session: 3, Body: &meshv1.Frame_Window{Window: &meshv1.Window{Bytes: 1 << 20}}})
	frame("stream_headers", &meshv1.Frame{Session: 3, Body: &meshv1.Frame_StreamHeaders{StreamHeaders: &meshv1.StreamHeaders{Headers: headers}}})
	frame("empty", &meshv1.Frame{})
	frame("without a body", &meshv1.Frame{Session: 9})
	frame("unknown body", unknownBody(9))
	later := reply(10, "x")
	unknownField(later.GetReply())
	frame("unknown fields", later)
	frame("unknown reason", failure(11, 99, 2, "later"))
	add("LinkRequest of three frames", &meshv1.LinkRequest{Frames: []*meshv1.Frame{heartbeat(false), request0(), cancel(1)}})
	add("LinkRequest, empty", &meshv1.LinkRequest{})
	add("LinkResponse of three frames", &meshv1.LinkResponse{Frames: []*meshv1.Frame{reply(1, "a"), failure(2, meshv1.Reason_REASON_PANIC, 13, "id 7"), goaway(2)}})
	return names, messages
}

func request0() *meshv1.Frame {
	return &meshv1.Frame{Session: 2, Body: &meshv1.Frame_Request{Request: &meshv1.Request{Address: &meshv1.Request_Handle{}, Method: "Ping"}}}
}

// newMessage is an empty message by its name, as recode tells it.
func newMessage(name string) proto.Message {
	switch name {
	case "LinkRequest":
		return &meshv1.LinkRequest{}
	case "LinkResponse":
		return &meshv1.LinkResponse{}
	default:
		return &meshv1.Frame{}
	}
}

// makeGolden makes the file's content.
func makeGolden(t *testing.T) []golden {
	t.Helper()
	var all []golden
	names, messages := goldenMessages()
	for _, name := range names {
		m := messages[name]
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		text, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var compact bytes.Buffer // protojson's spaces are not stable
		if err := json.Compact(&compact, text); err != nil {
			t.Fatal(err)
		}
		lossy := name == "unknown body" || name == "unknown fields"
		all = append(all, golden{name, string(m.ProtoReflect().Descriptor().Name()), hex.EncodeToString(data), compact.Bytes(), lossy})
	}
	return all
}

func readGolden(t *testing.T) (all []golden) {
	t.Helper()
	data, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestGolden holds the file against what the generated Go says: in bytes, in
// JSON, and both ways between them.
func TestGolden(t *testing.T) {
	want := makeGolden(t)
	if *update {
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", " ")
		if err := enc.Encode(want); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll("golden", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(goldenFile, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got := readGolden(t)
	if len(got) != len(want) {
		t.Fatalf("%d frames in %s, want %d: go test ./test/conformance -run TestGolden -update", len(got), goldenFile, len(want))
	}
	for i, g := range got {
		w := want[i]
		if g.Name != w.Name || g.Message != w.Message || g.Hex != w.Hex || g.Lossy != w.Lossy || !sameJSON(t, g.JSON, w.JSON) {
			t.Errorf("%s: the file has %.200s, the generated code gives %.200s", w.Name, g.Hex, w.Hex)
			continue
		}
		fromHex, fromJSON := newMessage(g.Message), newMessage(g.Message)
		data, err := hex.DecodeString(g.Hex)
		if err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(data, fromHex); err != nil {
			t.Fatal(err)
		}
		if err := protojson.Unmarshal(g.JSON, fromJSON); err != nil {
			t.Fatal(err)
		}
		if !g.Lossy && !proto.Equal(fromHex, fromJSON) {
			t.Errorf("%s: bytes and JSON mean different things", g.Name)
		}
	}
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal(a, &x); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &y); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(x, y)
}

// recodes are the cases of golden frames.
var recodes = []testCase{
	{name: "frames", run: recodeFrames},
	{name: "garbage", run: recodeGarbage},
}

func (k *kit) recode(message string, data []byte) *pending {
	return k.d.send(fields{"op": "recode", "message": message, "data": base64.StdEncoding.EncodeToString(data)})
}

func recodeFrames(k *kit) {
	for _, g := range readGolden(k.T) {
		data, err := hex.DecodeString(g.Hex)
		if err != nil {
			k.Fatal(err)
		}
		a := k.ok(k.recode(g.Message, data))
		want, got := newMessage(g.Message), newMessage(g.Message)
		if err := proto.Unmarshal(data, want); err != nil {
			k.Fatal(err)
		}
		if err := proto.Unmarshal(unbase64(k, a.Data), got); err != nil {
			k.Errorf("%s: what came back is no %s: %v", g.Name, g.Message, err)
			continue
		}
		if g.Lossy {
			dropUnknown(want)
			dropUnknown(got)
		}
		if !proto.Equal(want, got) {
			k.Errorf("%s: it came back as %.300v, want %.300v", g.Name, got, want)
		}
		if k.d.has("json") {
			k.recodedJSON(g, a.JSON)
		}
	}
}

// recodedJSON holds the JSON of a driver against the frame; protobuf's mapping
// leaves a choice in some places, so that the message that it means counts.
func (k *kit) recodedJSON(g golden, v any) {
	k.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		k.Fatal(err)
	}
	want, got := newMessage(g.Message), newMessage(g.Message)
	if err := protojson.Unmarshal(g.JSON, want); err != nil {
		k.Fatal(err)
	}
	if err := protojson.Unmarshal(text, got); err != nil {
		k.Errorf("%s: the driver's JSON is no %s: %v: %.300s", g.Name, g.Message, err, text)
	} else if !proto.Equal(want, got) {
		k.Errorf("%s: the driver's JSON is %.300s, want %.300s", g.Name, text, g.JSON)
	}
}

// dropUnknown takes unknown fields out of a frame and of its reply.
func dropUnknown(m proto.Message) {
	m.ProtoReflect().SetUnknown(nil)
	if f, ok := m.(*meshv1.Frame); ok && f.GetReply() != nil {
		f.GetReply().ProtoReflect().SetUnknown(nil)
	}
}

func recodeGarbage(k *kit) {
	whole, err := hex.DecodeString(readGolden(k.T)[0].Hex)
	if err != nil {
		k.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"truncated":            whole[:len(whole)-3],
		"a length without end": {0x12, 0xff, 0xff, 0xff, 0xff, 0x0f, 1},
		"a varint of 11 bytes": {0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		// Field numbers and end-group tags that cannot be are not here: protobuf-es skips them.
	} {
		if a := k.outcome(k.recode("Frame", data)); a.OK {
			k.Errorf("%s: it was decoded", name)
		}
	}
	k.ok(k.recode("Frame", whole))
}
