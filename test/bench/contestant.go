package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"path"
	"strings"
	"sync/atomic"
)

// The groups of contestants. Ratios are told to both kinds of wire and to the
// best peer.
const (
	groupMesh = "mesh"
	groupWire = "wire"
	groupPeer = "peer"
)

// targets is how many echoing targets every server has: mixes use two.
const targets = 2

// contestant is one way of moving messages between two processes.
type contestant struct {
	name  string
	group string
	about string
	// serve starts the responding side at 127.0.0.1:0 and tells its address.
	serve func(*tally) (addr string, stop func(), err error)
	// dial connects the calling side, over one link.
	dial func(ctx context.Context, addr string) (client, error)
	// pushes says whether there are one-way messages.
	pushes bool
	// boundless says that a push never waits for its receiver. The load then
	// keeps a window, or the receiver would drop messages or run out of memory.
	boundless bool
}

// client is the calling side of a contestant: one link.
type client interface {
	// caller makes what one goroutine uses, for calls and pushes to a target.
	caller(ctx context.Context, target int) (caller, error)
	close()
}

// caller is used by one goroutine at a time. The payload is only lent.
type caller interface {
	call(payload []byte) ([]byte, error)
	push(payload []byte) error
	// close ends the caller once all its pushes have left.
	close() error
}

// tally is what a server has received by pushes.
type tally struct {
	count atomic.Int64
	sum   atomic.Uint64 // of the stamps
}

func (t *tally) take(payload []byte) {
	t.count.Add(1)
	t.sum.Add(stampOf(payload))
}

// stamp writes 56 bits of n into the first eight bytes, seven to a byte: the
// payload stays a valid UTF-8 text, which a string field of a message must be.
func stamp(payload []byte, n uint64) {
	var b [8]byte
	for i := range b {
		b[i] = byte(n>>(7*i)) & 0x7f
	}
	copy(payload, b[:])
}

// stampOf reads the first eight bytes as they are.
func stampOf(payload []byte) uint64 {
	if len(payload) < 8 {
		return 0
	}
	return binary.LittleEndian.Uint64(payload)
}

// contestants in the order in which they are printed.
var contestants = []contestant{
	{name: "mesh", group: groupMesh, about: "pkg/mesh, Mesh.Call and Send, plain handler of a serial service", serve: meshServe(meshSerial), dial: meshDial, pushes: true},
	{name: "mesh-concurrent", group: groupMesh, about: "pkg/mesh, the same with mesh.Concurrent(0)", serve: meshServe(meshConcurrent), dial: meshDial, pushes: true},
	{name: "mesh-stub", group: groupMesh, about: "pkg/mesh, generated stub of pingserver.v1 through a Proxy (push: mesh.Post)", serve: meshServe(meshStub), dial: meshStubDial, pushes: true},
	{name: "gateway", group: groupMesh, about: "grpc-go stub of pingserver.v1 to a pkg/gateway, and from there over a link to its service; gateway and node are two meshes of one process", serve: gatewayServe, dial: gatewayDial},
	{name: "wire", group: groupWire, about: "raw TCP, session frames, batched writes, handler in the reader", serve: wireServe(wireBest), dial: wireDial(false), pushes: true},
	{name: "wire-mailbox", group: groupWire, about: "the same, one mailbox goroutine a target runs the handlers", serve: wireServe(wireMailboxes), dial: wireDial(false), pushes: true},
	{name: "wire-plain", group: groupWire, about: "as wire, but one goroutine writes, and never yields: the wire of issue 3's table", serve: wireServe(wirePlain), dial: wireDial(true), pushes: true},
	{name: "grpc-unary", group: groupPeer, about: "grpc-go, a unary call each, default settings but for message sizes", serve: grpcServe, dial: grpcUnaryDial},
	{name: "grpc-stream", group: groupPeer, about: "grpc-go, one bidi stream a caller (pushes: one client stream a sender)", serve: grpcServe, dial: grpcStreamDial, pushes: true},
	{name: "nats", group: groupPeer, about: "NATS request/reply and publish; the broker is embedded in the responder's process", serve: natsServe, dial: natsDial, pushes: true, boundless: true},
	{name: "protoactor", group: groupPeer, about: "proto.actor-go remote: RequestFuture and Send to one actor a target (two connections)", serve: actorServe, dial: actorDial, pushes: true, boundless: true},
}

func contestantNamed(name string) (contestant, error) {
	for _, c := range contestants {
		if c.name == name {
			return c, nil
		}
	}
	return contestant{}, fmt.Errorf("no contestant %q: see -list", name)
}

// chooseContestants takes patterns as in path.Match, separated by commas.
func chooseContestants(patterns string) ([]contestant, error) {
	var chosen []contestant
	for _, c := range contestants {
		ok, err := matches(patterns, c.name)
		if err != nil {
			return nil, err
		}
		if ok {
			chosen = append(chosen, c)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no contestant matches %q: see -list", patterns)
	}
	return chosen, nil
}

// matches tells whether one of the patterns matches name or a whole number of
// its leading elements; none matches all.
func matches(patterns, name string) (bool, error) {
	if patterns == "" {
		return true, nil
	}
	for p := range strings.SplitSeq(patterns, ",") {
		elements := strings.Split(name, "/")
		for n := range elements {
			ok, err := path.Match(p, strings.Join(elements[:n+1], "/"))
			if err != nil {
				return false, fmt.Errorf("pattern %q: %w", p, err)
			}
			if ok {
				return true, nil
			}
		}
	}
	return false, nil
}
