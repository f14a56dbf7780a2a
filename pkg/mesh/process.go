package mesh

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/meshnode/meshnode/pkg/channel"
	"github.com/meshnode/meshnode/pkg/registry"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// The methods of handle 0: what any process can say of itself.
const (
	methodQuery = "Query"
	methodNames = "Names"
	methodPing  = "Ping"
)

// answerProcess is the handler of handle 0.
func (m *Mesh) answerProcess(_ context.Context, method string, payload []byte) ([]byte, error) {
	switch method {
	case methodQuery:
		var q meshv1.QueryRequest
		if err := decodeProcess(payload, &q); err != nil {
			return nil, err
		}
		s, err := m.reg.ByName(q.GetName())
		if err == nil && s.Owner.(*Service).hidden.Load() {
			err = registry.ErrNameNotFound
		}
		if err != nil {
			return nil, refused{refusal(fmt.Errorf("%w: %q", err, cut(q.GetName())))}
		}
		return proto.Marshal(&meshv1.QueryResponse{Handle: s.Handle()})
	case methodNames:
		var r meshv1.NamesResponse
		for _, n := range m.reg.Names() {
			if s, err := m.reg.ByHandle(n.Handle); err != nil || s.Owner.(*Service).hidden.Load() {
				continue
			}
			r.Names = append(r.Names, &meshv1.Name{Name: n.Name, Handle: n.Handle})
		}
		return proto.Marshal(&r)
	case methodPing:
		var p meshv1.PingRequest
		if err := decodeProcess(payload, &p); err != nil {
			return nil, err
		}
		return proto.Marshal(&meshv1.PingResponse{Payload: p.GetPayload(), Process: m.opt.Name, Incarnation: m.incarnation})
	default:
		return nil, refused{unknownMethod(method)}
	}
}

// refused lets handle 0 refuse a request as the mesh does.
type refused struct{ *channel.Failure }

// Error is the failure's sentence.
func (r refused) Error() string { return r.Message }

func decodeProcess(payload []byte, into proto.Message) error {
	if err := proto.Unmarshal(payload, into); err != nil {
		return undecoded(err)
	}
	return nil
}
