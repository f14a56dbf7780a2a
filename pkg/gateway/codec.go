package gateway

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// frame is a message as its bytes, of whatever type it is.
type frame []byte

// codec passes frames through, and leaves everything else to protobuf.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(protocodec.Name)} }

// Marshal takes a frame as it is; its bytes are gRPC's from then on.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(frame); ok {
		return mem.BufferSlice{mem.SliceBuffer(f)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal copies the bytes into a *frame, whose they are for good.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch v := v.(type) {
	case *frame:
		*v = data.Materialize()
		return nil
	case frame:
		return fmt.Errorf("gateway: a message is received into a *frame, not a frame")
	default:
		return c.CodecV2.Unmarshal(data, v)
	}
}
