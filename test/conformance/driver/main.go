// Command driver carries out the ops of the conformance kit with pkg/mesh: the
// Go helper is the mesh itself. It has Link alone, since a Go program listens.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// op is one line of the kit's.
type op struct {
	ID   int    `json:"id"`
	Op   string `json:"op"`
	Link string `json:"link"`

	Address             string `json:"address"`
	Node                string `json:"node"`
	Process             string `json:"process"`
	HeartbeatIntervalMS int    `json:"heartbeat_interval_ms"`
	MaxBatchBytes       int    `json:"max_batch_bytes"`
	MaxMessageBytes     int64  `json:"max_message_bytes"`
	MaxUnfinishedBytes  int64  `json:"max_unfinished_bytes"`
	ConnectTimeoutMS    int    `json:"connect_timeout_ms"`

	Target    string      `json:"target"`
	Name      string      `json:"name"`
	Method    string      `json:"method"`
	Data      []byte      `json:"data"`
	Fill      *fill       `json:"fill"`
	TimeoutMS int         `json:"timeout_ms"`
	Headers   [][2]string `json:"headers"`
	TraceTag  string      `json:"trace_tag"`
	WaitUp    bool        `json:"wait_up"`
	Call      int         `json:"call"`
	Message   string      `json:"message"`
}

type fill struct {
	Size int `json:"size"`
	Seed int `json:"seed"`
}

// answer is one line to the kit.
type answer map[string]any

// link is one mesh with one node in its table.
type link struct {
	m     *mesh.Mesh
	node  string
	steps chan func() // in the order of the lines
}

// driver holds what the ops name.
type driver struct {
	mu      sync.Mutex // for stdout and what is below
	links   map[string]*link
	cancels map[int]context.CancelFunc
}

func main() {
	d := &driver{links: map[string]*link{}, cancels: map[int]context.CancelFunc{}}
	r := bufio.NewReader(os.Stdin)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		var o op
		if err := json.Unmarshal(line, &o); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %.200q\n", err, line)
			os.Exit(1)
		}
		d.run(&o)
	}
}

// run begins one op and does not wait for it.
func (d *driver) run(o *op) {
	switch o.Op {
	case "info":
		d.say(o, answer{"language": "go", "helper": "pkg/mesh", "grpc": grpcVersion(), "features": []string{"link", "recode", "json"}})
	case "link":
		d.say(o, d.open(o))
	case "call", "push", "query":
		d.step(o)
	case "cancel":
		d.mu.Lock()
		cancel := d.cancels[o.Call]
		d.mu.Unlock()
		if cancel != nil {
			cancel()
		}
		d.say(o, answer{})
	case "close":
		d.close(o)
	case "recode":
		d.say(o, recode(o))
	default:
		d.say(o, broken(fmt.Errorf("no op %q", o.Op)))
	}
}

func grpcVersion() string {
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, m := range info.Deps {
			if m.Path == "google.golang.org/grpc" {
				return "grpc-go " + m.Version
			}
		}
	}
	return "grpc-go"
}

func (d *driver) open(o *op) answer {
	m, err := mesh.New(mesh.Options{
		Name: o.Process, HeartbeatInterval: ms(o.HeartbeatIntervalMS), DialTimeout: ms(o.ConnectTimeoutMS),
		Limits: mesh.Limits{BatchBytes: o.MaxBatchBytes, MessageBytes: o.MaxMessageBytes, UnfinishedBytes: o.MaxUnfinishedBytes},
	})
	if err != nil {
		return broken(err)
	}
	if err := m.Reload(mesh.Table{o.Node: o.Address}); err != nil {
		return broken(err)
	}
	l := &link{m: m, node: o.Node, steps: make(chan func(), 100000)}
	go func() {
		for f := range l.steps {
			f()
		}
	}()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.links[o.Link] = l
	return answer{}
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// step makes a message in the order of the lines: a call goes on by itself, a
// push is over when it stands in the link's line.
func (d *driver) step(o *op) {
	d.mu.Lock()
	l := d.links[o.Link]
	d.mu.Unlock()
	if l == nil {
		d.say(o, broken(fmt.Errorf("no link %q", o.Link)))
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	if o.TimeoutMS > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), ms(o.TimeoutMS))
	}
	d.mu.Lock()
	d.cancels[o.ID] = cancel
	d.mu.Unlock()
	done := func(a answer) {
		d.mu.Lock()
		delete(d.cancels, o.ID)
		d.mu.Unlock()
		cancel()
		d.say(o, a)
	}
	l.steps <- func() {
		if o.Op == "push" {
			done(l.push(ctx, o))
			return
		}
		go func() {
			if o.Op == "query" {
				done(l.query(ctx, o))
			} else {
				done(l.call(ctx, o))
			}
		}()
	}
}

func (o *op) payload() []byte {
	if o.Fill == nil {
		return o.Data
	}
	b := make([]byte, o.Fill.Size)
	for i := range b {
		b[i] = byte(i*31 + (i>>8)*7 + o.Fill.Seed)
	}
	return b
}

func (o *op) options(ctx context.Context) (context.Context, []grpc.CallOption) {
	md := metadata.MD{}
	for _, kv := range o.Headers {
		value := kv[1]
		if strings.HasSuffix(kv[0], "-bin") {
			b, _ := base64.StdEncoding.DecodeString(value)
			value = string(b)
		}
		md.Append(kv[0], value)
	}
	opts := []grpc.CallOption{mesh.Headers(md)}
	if o.WaitUp {
		opts = append(opts, mesh.WaitUp)
	}
	if o.TraceTag != "" {
		ctx = mesh.WithTrace(ctx, mesh.Trace{Tag: o.TraceTag})
	}
	return ctx, opts
}

func (l *link) call(ctx context.Context, o *op) answer {
	ctx, opts := o.options(ctx)
	var head, tail metadata.MD
	reply, err := l.m.Call(ctx, l.node+o.Target, o.Method, o.payload(), append(opts, grpc.Header(&head), grpc.Trailer(&tail))...)
	a := answer{}
	if err != nil {
		a = failed(err)
		a["error"].(answer)["headers"], a["error"].(answer)["trailers"] = pairs(head), pairs(tail)
		return a
	}
	sum := sha256.Sum256(reply)
	a["size"], a["sha256"], a["headers"], a["trailers"] = len(reply), hex.EncodeToString(sum[:]), pairs(head), pairs(tail)
	if len(reply) <= 4096 {
		a["data"] = reply
	}
	return a
}

func (l *link) push(ctx context.Context, o *op) answer {
	ctx, opts := o.options(ctx)
	if err := l.m.Send(ctx, l.node+o.Target, o.Method, o.payload(), opts...); err != nil {
		return failed(err)
	}
	return answer{}
}

func (l *link) query(ctx context.Context, o *op) answer {
	h, err := l.m.Query(ctx, l.node+o.Name)
	if err != nil {
		return failed(err)
	}
	return answer{"handle": fmt.Sprintf("%016x", uint64(h))}
}

func pairs(md metadata.MD) (list [][2]string) {
	for key, values := range md {
		for _, v := range values {
			if strings.HasSuffix(key, "-bin") {
				v = base64.StdEncoding.EncodeToString([]byte(v))
			}
			list = append(list, [2]string{key, v})
		}
	}
	return list
}

func (d *driver) close(o *op) {
	d.mu.Lock()
	l := d.links[o.Link]
	d.mu.Unlock()
	if l == nil {
		d.say(o, broken(fmt.Errorf("no link %q", o.Link)))
		return
	}
	l.steps <- func() {
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), ms(o.TimeoutMS))
			defer cancel()
			if err := l.m.Close(ctx); err != nil {
				d.say(o, failed(err))
				return
			}
			d.say(o, answer{})
		}()
	}
}

// failed is an op's error.
func failed(err error) answer {
	e := answer{"verdict": mesh.VerdictOf(err).String(), "message": err.Error(), "reason": ""}
	var m *mesh.Error
	if errors.As(err, &m) {
		st := m.GRPCStatus()
		e["code"] = int(st.Code())
		var details []answer
		for _, d := range st.Proto().GetDetails() {
			details = append(details, answer{"type_url": d.GetTypeUrl(), "value": d.GetValue()})
		}
		if m.Err != nil {
			e["reason"] = reasonOf(st.Details())
		} else {
			e["details"] = details
		}
	}
	return answer{"ok": false, "error": e}
}

func reasonOf(details []any) string {
	for _, d := range details {
		if info, ok := d.(interface {
			GetReason() string
			GetDomain() string
		}); ok && info.GetDomain() == "mesh" {
			return info.GetReason()
		}
	}
	return "?"
}

func broken(err error) answer {
	return answer{"ok": false, "error": answer{"verdict": "", "message": err.Error()}}
}

func recode(o *op) answer {
	m := map[string]proto.Message{"Frame": &meshv1.Frame{}, "LinkRequest": &meshv1.LinkRequest{}, "LinkResponse": &meshv1.LinkResponse{}}[o.Message]
	if m == nil {
		return broken(errors.New("no message " + strconv.Quote(o.Message)))
	}
	if err := proto.Unmarshal(o.Data, m); err != nil {
		return broken(err)
	}
	data, err := proto.Marshal(m)
	if err != nil {
		return broken(err)
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		return broken(err)
	}
	return answer{"data": data, "json": json.RawMessage(text)}
}

// say writes the answer of an op.
func (d *driver) say(o *op, a answer) {
	a["id"] = o.ID
	if _, has := a["ok"]; !has {
		a["ok"] = true
	}
	line, err := json.Marshal(a)
	if err != nil {
		panic(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := os.Stdout.Write(append(line, '\n')); err != nil {
		os.Exit(1)
	}
}
