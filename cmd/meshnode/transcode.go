package main

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// transcoder turns JSON into the messages of one method, for unary Calls.
type transcoder struct {
	method protoreflect.MethodDescriptor
	types  interface {
		protoregistry.MessageTypeResolver
		protoregistry.ExtensionTypeResolver
	}
}

// transcoderFor is mesh.Options.Schema: it asks the target by reflection, and
// knows the services of this process by itself.
func transcoderFor(ctx context.Context, target grpc.ClientConnInterface, method string) (mesh.Transcoder, error) {
	name := strings.TrimPrefix(method, "/")
	if target == nil {
		return localTranscoder(name)
	}
	s, err := new(schemaFlags).open(ctx, "the target", target)
	if err != nil {
		return nil, err
	}
	defer s.close()
	m, err := s.method(name)
	if err != nil {
		return nil, err
	}
	return transcoder{m, s.AsTypeResolver()}, nil
}

func localTranscoder(name string) (mesh.Transcoder, error) {
	of, short, _ := strings.Cut(name, "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(of))
	if err != nil {
		return nil, usagef("this process has no gRPC service %s", of)
	}
	service, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, usagef("%s is no gRPC service", of)
	}
	m := service.Methods().ByName(protoreflect.Name(short))
	if m == nil {
		return nil, usagef("%s has no method %s; it has %s", of, short, strings.Join(methodsOf(service), ", "))
	}
	return transcoder{m, protoregistry.GlobalTypes}, nil
}

// Request encodes a request.
func (t transcoder) Request(json string) ([]byte, error) {
	m := dynamicpb.NewMessage(t.method.Input())
	if err := (protojson.UnmarshalOptions{Resolver: t.types}).Unmarshal([]byte(json), m); err != nil {
		return nil, err
	}
	return proto.Marshal(m)
}

// Reply decodes a reply.
func (t transcoder) Reply(payload []byte) (string, error) {
	m := dynamicpb.NewMessage(t.method.Output())
	if err := (proto.UnmarshalOptions{Resolver: t.types}).Unmarshal(payload, m); err != nil {
		return "", err
	}
	text, err := protojson.MarshalOptions{Resolver: t.types}.Marshal(m)
	return string(text), err
}
