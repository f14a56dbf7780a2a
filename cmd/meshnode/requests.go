package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/jhump/protoreflect/v2/protoresolve"
)

// requests reads the messages of a call, one after the other, as JSON values or
// as texts with the character 0x1E between them.
type requests struct {
	next  func() ([]byte, error)
	parse func([]byte, proto.Message) error
	n     int // that were read
}

// newRequests reads data, or standard input where it is "@".
func newRequests(data, format string, types protoresolve.SerializationResolver) *requests {
	var from io.Reader = strings.NewReader(data)
	if data == "@" {
		from = os.Stdin
	}
	if format == "text" {
		r := bufio.NewReader(from)
		return &requests{
			next: func() ([]byte, error) { return nextText(r) },
			parse: func(text []byte, m proto.Message) error {
				return prototext.UnmarshalOptions{Resolver: types}.Unmarshal(text, m)
			},
		}
	}
	d := json.NewDecoder(from)
	return &requests{
		next: func() ([]byte, error) {
			var raw json.RawMessage
			err := d.Decode(&raw)
			return raw, err
		},
		parse: func(text []byte, m proto.Message) error {
			return protojson.UnmarshalOptions{Resolver: types}.Unmarshal(text, m)
		},
	}
}

func nextText(r *bufio.Reader) ([]byte, error) {
	text, err := r.ReadString('\x1e')
	if errors.Is(err, io.EOF) && strings.TrimSpace(text) != "" {
		err = nil
	}
	return []byte(strings.TrimSuffix(text, "\x1e")), err
}

// read reads the next message; io.EOF says that there is none.
func (r *requests) read(into proto.Message) error {
	text, err := r.next()
	if errors.Is(err, io.EOF) && len(text) == 0 {
		return io.EOF
	}
	if err == nil {
		err = r.parse(text, into)
	}
	r.n++
	if err != nil {
		return usagef("message %d, a %s: %w", r.n, into.ProtoReflect().Descriptor().FullName(), err)
	}
	return nil
}

// only reads the one message of a unary request; none is an empty one.
func (r *requests) only(into proto.Message) error {
	if err := r.read(into); err != nil {
		if err == io.EOF {
			return nil
		}
		return err
	}
	if _, err := r.next(); !errors.Is(err, io.EOF) {
		return usagef("there is more than one message, and the method takes one: %v", or(err, errors.New("give one")))
	}
	return nil
}

func or(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// printer writes messages as text.
type printer struct {
	format       string
	emitDefaults bool
	types        protoresolve.SerializationResolver
}

// text is a message as JSON, or as protobuf's text.
func (p *printer) text(m proto.Message) ([]byte, error) {
	if p.format == "text" {
		return prototext.MarshalOptions{Multiline: true, Resolver: p.types}.Marshal(m)
	}
	compact, err := protojson.MarshalOptions{EmitUnpopulated: p.emitDefaults, Resolver: p.types}.Marshal(m)
	if err != nil {
		return nil, err
	}
	return indented(compact)
}

// print writes a message to standard output.
func (p *printer) print(m proto.Message) error {
	text, err := p.text(m)
	if err != nil {
		return fmt.Errorf("the reply cannot be shown: %w", err)
	}
	if len(text) == 0 || text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	return output(text)
}
