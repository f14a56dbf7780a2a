package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/jhump/protoreflect/v2/grpcreflect"
	"github.com/jhump/protoreflect/v2/protoresolve"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/meshnode/meshnode/pkg/mesh"
)

const aboutSchema = `The schema comes from the target itself, where it answers gRPC reflection (an
example served with --reflection does; in Go reflection.Register(service), in
other languages the server's reflection add-on), else from the files of
--protoset, which protoc --descriptor_set_out --include_imports, or buf build -o,
make.`

// schemaFlags say where schemas are.
type schemaFlags struct{ protosets []string }

func (f *schemaFlags) add(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.protosets, "protoset", nil, "`FILE` with the schema, a compiled FileDescriptorSet, instead of the target's reflection; repeatable")
}

// schema is what is known of the services of a target.
type schema struct {
	protoresolve.Resolver
	list  func() ([]protoreflect.FullName, error)
	close func()
	of    string // for sentences
}

// open finds the schema of a target. conn is the way to it.
func (f *schemaFlags) open(ctx context.Context, target string, conn grpc.ClientConnInterface) (*schema, error) {
	if len(f.protosets) == 0 {
		c := grpcreflect.NewClientAuto(ctx, conn, grpcreflect.WithAllowMissingFileDescriptors())
		return &schema{Resolver: c.AsResolver(), list: c.ListServices, close: c.Reset, of: target}, nil
	}
	var all descriptorpb.FileDescriptorSet
	for _, path := range f.protosets {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, usagef("--protoset: %w", err)
		}
		var set descriptorpb.FileDescriptorSet
		if err := proto.Unmarshal(text, &set); err != nil || len(set.GetFile()) == 0 {
			return nil, usagef("--protoset %s: it is no FileDescriptorSet, as protoc --descriptor_set_out --include_imports makes it", path)
		}
		for _, file := range set.GetFile() {
			known := func(other *descriptorpb.FileDescriptorProto) bool { return other.GetName() == file.GetName() }
			if !slices.ContainsFunc(all.File, known) {
				all.File = append(all.File, file)
			}
		}
	}
	files, err := protoresolve.FromFileDescriptorSet(&all)
	if err != nil {
		return nil, usagef("--protoset: %w (was it made with --include_imports?)", err)
	}
	s := &schema{Resolver: files, close: func() {}, of: strings.Join(f.protosets, ", ")}
	s.list = func() ([]protoreflect.FullName, error) { return servicesIn(files), nil }
	return s, nil
}

// servicesIn lists the services that files define.
func servicesIn(files protoresolve.FilePool) (names []protoreflect.FullName) {
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			names = append(names, file.Services().Get(i).FullName())
		}
		return true
	})
	return names
}

// services lists the services, sorted.
func (s *schema) services() ([]protoreflect.FullName, error) {
	names, err := s.list()
	if err != nil {
		return nil, s.failed(err)
	}
	slices.Sort(names)
	return names, nil
}

// failed explains what asking for a schema can meet.
func (s *schema) failed(err error) error {
	if status.Code(err) == codes.Unimplemented { // by the mesh, or by a handler that takes any method
		return &failure{code: exitRejected, err: fmt.Errorf("rejected: %s does not answer reflection, so its schema is not known: give it with --protoset FILE, or have it answer (serve --reflection; in Go reflection.Register)", s.of)}
	}
	return err
}

// find returns what has a name.
func (s *schema) find(name string) (protoreflect.Descriptor, error) {
	if !protoreflect.FullName(name).IsValid() {
		return nil, usagef("%q is no name of a schema: write one like simpledb.v1.SimpleDBService", name)
	}
	d, err := s.FindDescriptorByName(protoreflect.FullName(name))
	switch {
	case err == nil:
		return d, nil
	case grpcreflect.IsElementNotFoundError(err) || errors.Is(err, protoresolve.ErrNotFound):
		hint := ""
		if names, err := s.list(); err == nil && len(names) > 0 {
			slices.Sort(names)
			hint = fmt.Sprintf("; its services are %s", joined(names))
		}
		return nil, usagef("%s has no %s%s", s.of, name, hint)
	default:
		return nil, s.failed(err)
	}
}

func joined(names []protoreflect.FullName) string {
	texts := make([]string, len(names))
	for i, n := range names {
		texts[i] = string(n)
	}
	return strings.Join(texts, ", ")
}

// service finds a gRPC service.
func (s *schema) service(name string) (protoreflect.ServiceDescriptor, error) {
	d, err := s.find(name)
	if err != nil {
		return nil, err
	}
	service, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, usagef("%s is a %s, not a gRPC service", name, protoresolve.KindOf(d))
	}
	return service, nil
}

// method finds the method that is written SERVICE/METHOD.
func (s *schema) method(name string) (protoreflect.MethodDescriptor, error) {
	of, short, _ := strings.Cut(name, "/")
	service, err := s.service(of)
	if err != nil {
		return nil, err
	}
	if m := service.Methods().ByName(protoreflect.Name(short)); m != nil {
		return m, nil
	}
	return nil, usagef("%s has no method %s; it has %s", of, short, strings.Join(methodsOf(service), ", "))
}

// methodsOf lists the methods of a service by their short names, sorted.
func methodsOf(service protoreflect.ServiceDescriptor) (names []string) {
	for i := range service.Methods().Len() {
		names = append(names, string(service.Methods().Get(i).Name()))
	}
	slices.Sort(names)
	return names
}

// isMethod tells a method of a schema, SERVICE/METHOD, from one of a plain
// handler, which is any text.
func isMethod(method string) bool {
	return regexp.MustCompile(`^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*/[A-Za-z_]\w*$`).MatchString(method)
}

// with is a proxy whose calls all have these options.
type with struct {
	*mesh.Proxy
	opts []grpc.CallOption
}

// Invoke is the proxy's.
func (w with) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return w.Proxy.Invoke(ctx, method, args, reply, append(opts[:len(opts):len(opts)], w.opts...)...)
}

// NewStream is the proxy's.
func (w with) NewStream(ctx context.Context, d *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return w.Proxy.NewStream(ctx, d, method, append(opts[:len(opts):len(opts)], w.opts...)...)
}
