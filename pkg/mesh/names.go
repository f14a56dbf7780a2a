package mesh

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/meshnode/meshnode/pkg/channel"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// Name is a name that a process offers, with its sign, and the service's handle.
type Name struct {
	Name   string
	Handle Handle
}

// Names returns the names that the process of a node offers now, sorted. It
// waits for the node as Call does.
func (m *Mesh) Names(ctx context.Context, node string, opts ...grpc.CallOption) ([]Name, error) {
	t := target{text: node, node: node}
	if err := channel.CheckNode(node); err != nil {
		return nil, t.fails(NotSent, ErrInvalidTarget, methodNames, fmt.Sprintf("invalid node %q: %v", cut(node), err))
	}
	o := collect(opts)
	reply, err := m.do(ctx, &t, methodNames, nil, false, &o)
	if err != nil {
		return nil, err
	}
	var r meshv1.NamesResponse
	if err := proto.Unmarshal(reply, &r); err != nil {
		return nil, t.fails(HandlerFailed, ErrInvalidRequest, methodNames, "the node's answer to Names is malformed")
	}
	names := make([]Name, 0, len(r.GetNames()))
	for _, n := range r.GetNames() {
		names = append(names, Name{n.GetName(), Handle(n.GetHandle())})
	}
	return names, nil
}
