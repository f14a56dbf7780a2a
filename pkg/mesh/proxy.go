package mesh

import (
	"context"

	"google.golang.org/grpc"
)

// Proxy stands for one target. It is cheap to make, safe to share, and stays
// valid for the life of the process, whatever happens to the node. It is a
// grpc.ClientConnInterface: unmodified generated stubs work over it.
type Proxy struct {
	mesh   *Mesh
	text   string
	target *target
	err    error
}

// Proxy returns a proxy for target. A mistake in the target is told at first
// use.
func (m *Mesh) Proxy(target string) *Proxy {
	p := &Proxy{mesh: m, text: target}
	p.target, p.err = m.targets.parsed(target)
	return p
}

// Target is what Proxy was given.
func (p *Proxy) Target() string { return p.text }

// Err says what is wrong with the target, as its first use would tell it: nil of
// a right one, whether its node and service are there or not.
func (p *Proxy) Err() error {
	if p.err == nil {
		return nil
	}
	return invalidTarget(p.text, "", p.err)
}

// Call is Mesh.Call to the proxy's target.
func (p *Proxy) Call(ctx context.Context, method string, payload []byte, opts ...grpc.CallOption) ([]byte, error) {
	if p.err != nil {
		return nil, invalidTarget(p.text, method, p.err)
	}
	o := collect(opts)
	return p.mesh.do(ctx, p.target, method, payload, o.post, &o)
}

// Send is Mesh.Send to the proxy's target.
func (p *Proxy) Send(ctx context.Context, method string, payload []byte, opts ...grpc.CallOption) error {
	_, err := p.Call(ctx, method, payload, append(opts[:len(opts):len(opts)], Post)...)
	return err
}

// Invoke is what generated stubs call for a unary method. With the option Post
// the message is one-way and reply stays as it is. args may be []byte, which is
// given away, and reply *[]byte: they pass as they are.
func (p *Proxy) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if err := p.invoke(ctx, method, args, reply, opts); err != nil {
		return forStub(err)
	}
	return nil
}

func (p *Proxy) invoke(ctx context.Context, method string, args, reply any, opts []grpc.CallOption) error {
	if p.err != nil {
		return invalidTarget(p.text, method, p.err)
	}
	o := collect(opts)
	c := o.codecOr(p.mesh.codec)
	payload, err := c.marshal(args)
	if err != nil {
		return p.target.fails(NotSent, ErrInvalidRequest, method, "the request cannot be encoded: "+err.Error())
	}
	o.owned = true
	bytes, err := p.mesh.do(ctx, p.target, method, payload, o.post, &o)
	if err != nil || o.post {
		return err
	}
	if err := c.unmarshal(bytes, reply); err != nil {
		return p.target.fails(HandlerFailed, ErrInvalidRequest, method, "the reply cannot be decoded: "+err.Error())
	}
	return nil
}
