package mesh

import (
	"reflect"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// codec encodes the messages of stubs: bytes as they are, everything else by the
// codec that gRPC has for protobuf when the Mesh is made, or by the one that a
// call was given.
type codec struct {
	encoding.CodecV2
	standard bool // it is gRPC's own, which protobuf's functions stand for
	given    bool // by a call: bytes go through it too
}

func newCodec() codec {
	c := encoding.GetCodecV2(protocodec.Name)
	return codec{CodecV2: c, standard: reflect.Indirect(reflect.ValueOf(c)).Type().PkgPath() == "google.golang.org/grpc/encoding/proto"}
}

// codecOr is the codec of a call.
func (o *callOptions) codecOr(c codec) codec {
	if o.codec.given {
		return o.codec
	}
	return c
}

func (c codec) marshal(v any) ([]byte, error) {
	if m, ok := v.(proto.Message); ok && c.standard {
		return proto.Marshal(m) // into a slice of its size, not into gRPC's buffers
	}
	if !c.given {
		switch b := v.(type) {
		case []byte:
			return b, nil
		case *[]byte:
			return *b, nil
		}
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
	if into, ok := v.(*[]byte); ok && !c.given {
		*into = b
		return nil
	}
	return c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, v)
}

// oldCodec is a codec of gRPC's first kind, given to a call.
type oldCodec struct{ encoding.Codec }

// Marshal is the codec's.
func (c oldCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, err := c.Codec.Marshal(v)
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

// Unmarshal is the codec's.
func (c oldCodec) Unmarshal(bufs mem.BufferSlice, v any) error {
	return c.Codec.Unmarshal(bufs.Materialize(), v)
}
