package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// invocation is a call of a method with a schema: its messages are JSON.
type invocation struct {
	schemas      schemaFlags
	data         string
	format       string
	emitDefaults bool
	verbose      bool
	maxTime      float64

	md     metadata.MD // for -v
	method protoreflect.MethodDescriptor
	conn   grpc.ClientConnInterface
	in     *requests
	out    *printer
}

func (i *invocation) add(flags *pflag.FlagSet) {
	i.schemas.add(flags)
	flags.StringVarP(&i.data, "data", "d", "", "the request as JSON; several, one after the other, for a method that takes a stream; @ reads them from standard input")
	flags.StringVar(&i.format, "format", "json", "of requests and replies, json or text (protobuf's, with the character 0x1E between messages)")
	flags.BoolVar(&i.emitDefaults, "emit-defaults", false, "show fields that have their default value too")
	flags.BoolVarP(&i.verbose, "verbose", "v", false, "show method, metadata, headers, trailers and counts, on standard error")
	flags.Float64Var(&i.maxTime, "max-time", 0, "`SECONDS` for all of it: --timeout, as grpcurl has it")
}

// parse completes the flags. json says that the call is one with a schema.
func (i *invocation) parse(flags *pflag.FlagSet, c *client, json bool) error {
	if !json {
		for _, name := range []string{"protoset", "data", "format", "emit-defaults"} {
			if flags.Changed(name) {
				return usagef("--%s is for methods with a schema, written SERVICE/METHOD like simpledb.v1.SimpleDBService/Get", name)
			}
		}
	}
	if i.format != "json" && i.format != "text" {
		return usagef("--format %q: write json or text", i.format)
	}
	if flags.Changed("max-time") {
		if i.maxTime <= 0 {
			return usagef("--max-time %v: write a number of seconds above 0", i.maxTime)
		}
		c.timeout = time.Duration(i.maxTime * float64(time.Second))
	}
	return nil
}

// run calls the method that is written SERVICE/METHOD.
func (i *invocation) run(ctx context.Context, conn with, method string) error {
	if err := conn.Err(); err != nil {
		return err
	}
	s, err := i.schemas.open(ctx, conn.Target(), conn)
	if err != nil {
		return err
	}
	defer s.close()
	if i.method, err = s.method(method); err != nil {
		return err
	}
	types := s.AsTypeResolver()
	i.conn, i.in = conn, newRequests(i.data, i.format, types)
	i.out = &printer{format: i.format, emitDefaults: i.emitDefaults, types: types}
	i.tell("method: %s\n", i.method.FullName())
	i.tellMD("metadata", i.md)
	if i.method.IsStreamingClient() || i.method.IsStreamingServer() {
		err = i.stream(ctx)
	} else {
		err = i.unary(ctx)
	}
	return i.detailed(err)
}

// full is the method's path.
func (i *invocation) full() string {
	return "/" + string(i.method.Parent().FullName()) + "/" + string(i.method.Name())
}

func (i *invocation) unary(ctx context.Context) error {
	request, reply := dynamicpb.NewMessage(i.method.Input()), dynamicpb.NewMessage(i.method.Output())
	if err := i.in.only(request); err != nil {
		return err
	}
	var head, trail metadata.MD
	err := i.conn.Invoke(ctx, i.full(), request, reply, grpc.Header(&head), grpc.Trailer(&trail))
	i.tellMD("headers", head)
	if err == nil {
		err = i.out.print(reply)
	}
	i.tellMD("trailers", trail)
	return err
}

// stream calls a method that streams. What standard input has is sent as it
// comes; what comes back is shown at once.
func (i *invocation) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var first proto.Message
	if !i.method.IsStreamingClient() { // a mistake in it is found before anything is sent
		first = dynamicpb.NewMessage(i.method.Input())
		if err := i.in.only(first); err != nil {
			return err
		}
	}
	desc := &grpc.StreamDesc{ClientStreams: i.method.IsStreamingClient(), ServerStreams: i.method.IsStreamingServer()}
	s, err := i.conn.NewStream(ctx, desc, i.full())
	if err != nil {
		return err
	}
	go func() {
		if err := i.send(s, first); err != nil {
			cancel(err)
		}
	}()
	received, err := i.receive(s)
	if cause := context.Cause(ctx); errors.As(cause, new(*failure)) {
		err = cause
	}
	i.tellMD("trailers", s.Trailer())
	i.tell("received: %d\n", received)
	return err
}

// send sends the messages of the caller. An error is his mistake.
func (i *invocation) send(s grpc.ClientStream, first proto.Message) error {
	sent := 0
	for m := first; ; m = nil {
		if m == nil {
			m = dynamicpb.NewMessage(i.method.Input())
			err := i.in.read(m)
			if err == io.EOF {
				break
			}
			if err != nil && sent > 0 {
				return &failure{code: exitMaybe, err: fmt.Errorf("maybe executed: %d messages had been sent, and the call was cancelled: %w", sent, err)}
			}
			if err != nil {
				return err
			}
		}
		if s.SendMsg(m) != nil {
			return nil // receive gets the reason
		}
		sent++
		if first != nil {
			break
		}
	}
	_ = s.CloseSend()
	return nil
}

func (i *invocation) receive(s grpc.ClientStream) (received int, err error) {
	if head, err := s.Header(); err == nil {
		i.tellMD("headers", head)
	}
	for {
		m := dynamicpb.NewMessage(i.method.Output())
		if err := s.RecvMsg(m); err != nil {
			if err == io.EOF {
				err = nil
			}
			return received, err
		}
		received++
		if err := i.out.print(m); err != nil {
			return received, err
		}
		if !i.method.IsStreamingServer() {
			// The status follows the one reply.
			if err := s.RecvMsg(dynamicpb.NewMessage(i.method.Output())); err != io.EOF {
				return received, err
			}
			return received, nil
		}
	}
}

func (i *invocation) tell(format string, args ...any) {
	if i.verbose {
		fmt.Fprintf(os.Stderr, format, args...)
	}
}

func (i *invocation) tellMD(what string, md metadata.MD) {
	for key, values := range md {
		for _, value := range values {
			if strings.HasSuffix(key, "-bin") {
				value = base64.StdEncoding.EncodeToString([]byte(value))
			}
			i.tell("%s: %s: %s\n", what, visible(key), visible(value))
		}
	}
}

// detailed is an error with its status as JSON, which is printed too.
type detailed struct {
	error
	status []byte
}

// Unwrap returns the error.
func (d *detailed) Unwrap() error { return d.error }

// detailed adds to an error of the call what its status says.
func (i *invocation) detailed(err error) error {
	var e *mesh.Error
	if !errors.As(err, &e) {
		return err
	}
	p := status.Convert(err).Proto()
	text := struct {
		Code    int32             `json:"code"`
		Status  string            `json:"status"`
		Message string            `json:"message"`
		Details []json.RawMessage `json:"details,omitempty"`
	}{p.GetCode(), status.Code(err).String(), p.GetMessage(), nil}
	for _, d := range p.GetDetails() {
		text.Details = append(text.Details, i.detail(d))
	}
	all, bad := json.Marshal(text)
	if bad != nil {
		return err
	}
	if all, bad = indented(all); bad != nil {
		return err
	}
	return &detailed{e, all}
}

// detail is one detail as JSON, by the schema of the target or our own; one of a
// type that neither has shows its bytes.
func (i *invocation) detail(d *anypb.Any) []byte {
	if text, err := (protojson.MarshalOptions{Resolver: i.out.types}).Marshal(d); err == nil {
		return text
	}
	if text, err := (protojson.MarshalOptions{Resolver: protoregistry.GlobalTypes}).Marshal(d); err == nil {
		return text
	}
	text, _ := json.Marshal(map[string]any{"@type": d.GetTypeUrl(), "value": d.GetValue()}) // strings and bytes always can
	return text
}

func indented(compact []byte) ([]byte, error) {
	var b bytes.Buffer
	err := json.Indent(&b, compact, "", "  ")
	return b.Bytes(), err
}
