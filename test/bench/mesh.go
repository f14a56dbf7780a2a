package main

import (
	"context"
	"time"
	"unsafe"

	pingserverv1 "github.com/meshnode/meshnode/examples/proto/pingserver/v1"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// The services of a mesh server.
const (
	meshSerial = iota
	meshConcurrent
	meshStub
)

// meshNode is the node name of the server.
const meshNode = "server"

var meshTargets = [targets]string{"@echo", "@other"}

const methodPush = "PUSH"

func meshServe(kind int) func(*tally) (string, func(), error) {
	return func(t *tally) (string, func(), error) {
		m, err := mesh.New(mesh.Options{Name: "bench-server"})
		if err != nil {
			return "", nil, err
		}
		for _, name := range meshTargets {
			if err := m.Register(name, meshService(m, t, kind)); err != nil {
				return "", nil, err
			}
		}
		l, err := m.Open("127.0.0.1:0")
		if err != nil {
			return "", nil, err
		}
		return l.Addr().String(), func() { closeMesh(m) }, nil
	}
}

func meshService(m *mesh.Mesh, t *tally, kind int) *mesh.Service {
	echo := func(_ context.Context, method string, payload []byte) ([]byte, error) {
		if method == methodPush {
			t.take(payload)
			return nil, nil
		}
		return payload, nil
	}
	switch kind {
	case meshSerial:
		return m.NewService(echo)
	case meshConcurrent:
		return m.NewService(echo, mesh.Concurrent(0))
	}
	s := m.NewService(nil)
	pingserverv1.RegisterPingServerServiceServer(s, &pinger{tally: t})
	return s
}

// pinger echoes for generated stubs.
type pinger struct {
	pingserverv1.UnimplementedPingServerServiceServer
	tally *tally
}

// Ping returns its text, and counts it where nobody waits.
func (p *pinger) Ping(ctx context.Context, r *pingserverv1.PingRequest) (*pingserverv1.PingResponse, error) {
	if c, ok := mesh.CallerFrom(ctx); ok && c.Push {
		p.tally.take([]byte(r.GetText()[:8]))
	}
	return &pingserverv1.PingResponse{Text: r.GetText()}, nil
}

func closeMesh(m *mesh.Mesh) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = m.Close(ctx) // what it could not end in time ends with the process
}

// dialMesh makes the calling mesh, linked to addr.
func dialMesh(ctx context.Context, addr string) (*mesh.Mesh, error) {
	m, err := mesh.New(mesh.Options{Name: "bench-client"})
	if err != nil {
		return nil, err
	}
	if err := m.Reload(mesh.Table{meshNode: addr}); err != nil {
		return nil, err
	}
	return m, m.WaitReady(ctx, meshNode)
}

type meshClient struct{ m *mesh.Mesh }

func meshDial(ctx context.Context, addr string) (client, error) {
	m, err := dialMesh(ctx, addr)
	return meshClient{m}, err
}

func (c meshClient) caller(ctx context.Context, target int) (caller, error) {
	return meshCaller{c.m, ctx, meshNode + meshTargets[target]}, nil
}

func (c meshClient) close() { closeMesh(c.m) }

type meshCaller struct {
	m      *mesh.Mesh
	ctx    context.Context
	target string
}

func (c meshCaller) call(payload []byte) ([]byte, error) {
	return c.m.Call(c.ctx, c.target, "ECHO", payload)
}

func (c meshCaller) push(payload []byte) error {
	return c.m.Send(c.ctx, c.target, methodPush, payload)
}

func (meshCaller) close() error { return nil }

type meshStubClient struct{ m *mesh.Mesh }

func meshStubDial(ctx context.Context, addr string) (client, error) {
	m, err := dialMesh(ctx, addr)
	return meshStubClient{m}, err
}

func (c meshStubClient) caller(ctx context.Context, target int) (caller, error) {
	stub := pingserverv1.NewPingServerServiceClient(c.m.Proxy(meshNode + meshTargets[target]))
	return meshStubCaller{stub, ctx}, nil
}

func (c meshStubClient) close() { closeMesh(c.m) }

type meshStubCaller struct {
	stub pingserverv1.PingServerServiceClient
	ctx  context.Context
}

// text shows bytes as a string without a copy. The load changes them only when
// the message has been encoded.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func (c meshStubCaller) call(payload []byte) ([]byte, error) {
	r, err := c.stub.Ping(c.ctx, &pingserverv1.PingRequest{Text: text(payload)})
	if err != nil {
		return nil, err
	}
	reply := r.GetText()
	return unsafe.Slice(unsafe.StringData(reply), len(reply)), nil
}

func (c meshStubCaller) push(payload []byte) error {
	_, err := c.stub.Ping(c.ctx, &pingserverv1.PingRequest{Text: text(payload)}, mesh.Post)
	return err
}

func (meshStubCaller) close() error { return nil }
