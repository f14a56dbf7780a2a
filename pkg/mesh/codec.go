package mesh

import (
	"reflect"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// codec encodes the messages of stubs: the codec that gRPC has for protobuf when
// the Mesh is made.
type codec struct {
	encoding.CodecV2
	standard bool // it is gRPC's own, which protobuf's functions stand for
}

func newCodec() codec {
	c := encoding.GetCodecV2(protocodec.Name)
	return codec{c, reflect.Indirect(reflect.ValueOf(c)).Type().PkgPath() == "google.golang.org/grpc/encoding/proto"}
}

func (c codec) marshal(v any) ([]byte, error) {
	if m, ok := v.(proto.Message); ok && c.standard {
		return proto.Marshal(m) // into a slice of its size, not into gRPC's buffers
	}
	bufs, err := c.Marshal(v)
	if err != nil {
		return nil, err
	}
	defer bufs.Free()
	return bufs.Materialize(), nil
}

func (c codec) unmarshal(b []byte, v any) error {
	if m, ok := v.(proto.Message); ok && c.standard {
		return proto.Unmarshal(b, m)
	}
	return c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, v)
}
