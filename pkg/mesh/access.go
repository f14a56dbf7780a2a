package mesh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/access"
	"github.com/meshnode/meshnode/pkg/channel"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// TLS encrypts every link of a process, with certificates at both ends. Nothing
// is spoken in clear then, on loopback either. TLS 1.3 alone is spoken.
type TLS struct {
	// Cert, Key and CA are PEM files: this process's certificate with those
	// between it and its CA, its private key, and the certificates of the CAs
	// that sign for peers. They are looked at again, at most once a second, when
	// a connection is made: open links stay, a file that is not right changes
	// nothing and is told to the log.
	Cert, Key, CA string
	// AnyClient lets peers dial that show no certificate. What a certificate
	// would say of them is then unknown to rules. Default: one is required.
	AnyClient bool
	// NodeIdentity binds names to certificates (M63): a peer that dials must
	// carry the process name of its hello, and the process that answers for a
	// node must carry that node's name. A certificate carries the NAME of each
	// URI spiffe://DOMAIN/node/NAME; without such a URI, its DNS names. Without it, a certificate
	// of the CA for the host in the node's address is enough.
	NodeIdentity bool
	// Domain is the only SPIFFE trust domain whose names count. Default: all.
	Domain string
}

// Rules say which identities may call which names and methods; see
// access.ParseRules for what a file of them looks like.
type Rules = access.Rules

// ParseRules reads rules from YAML, all or nothing. The error names every
// mistake with its line.
func ParseRules(yaml []byte) (*Rules, error) { return access.ParseRules(yaml) }

// guard is who may link with this process, and what they may do.
type guard struct {
	tls    *TLS
	keys   *access.Keys // nil without TLS
	tokens atomic.Pointer[access.Secrets]
	rules  atomic.Pointer[access.Rules]
	log    *zap.Logger // of refusals: sampled
}

// newGuard reads what the options name, and may give the process its name.
func newGuard(o *Options) (*guard, error) {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	g := &guard{tls: o.TLS, log: o.Logger.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		if !c.Enabled(zapcore.FatalLevel) {
			return c // nobody reads it, and a sampler is 450 KiB
		}
		return zapcore.NewSamplerWithOptions(c, time.Second, 20, 1000) // a second's first 20 of each kind
	}))}
	g.rules.Store(o.Rules)
	if len(o.Tokens) > 0 {
		s, err := access.NewSecrets(o.Tokens...)
		if err != nil {
			return nil, fmt.Errorf("mesh: Tokens: %w", err)
		}
		g.tokens.Store(s)
	}
	if o.TLS == nil {
		return g, nil
	}
	var err error
	g.keys, err = access.Open(access.Files{Cert: o.TLS.Cert, Key: o.TLS.Key, CA: o.TLS.CA}, func(err error) {
		if err != nil {
			o.Logger.Error("a change of the TLS files was not taken", zap.Error(err))
			return
		}
		o.Logger.Info("TLS files reloaded")
	})
	if err != nil {
		return nil, fmt.Errorf("mesh: TLS: %w", err)
	}
	if o.TLS.NodeIdentity {
		return g, g.nameFrom(o)
	}
	return g, nil
}

// nameFrom gives the process the name that its certificate carries, or checks
// the one that it has.
func (g *guard) nameFrom(o *Options) error {
	names := g.keys.Names(g.tls.Domain)
	switch {
	case len(names) == 0:
		return errors.New("mesh: TLS.NodeIdentity: the certificate carries no name: it needs a URI spiffe://DOMAIN/node/NAME, or a DNS name")
	case g.tls.AnyClient:
		return errors.New("mesh: TLS.NodeIdentity and AnyClient: a peer without a certificate has no identity; choose one of them")
	case o.Name == "":
		o.Name = names[0]
	case !(access.Identity{Names: names}).Has(o.Name):
		return fmt.Errorf("mesh: Name %q is not in the certificate, which carries %q, and TLS.NodeIdentity is set", o.Name, names)
	}
	return nil
}

// SetTokens exchanges the tokens, as Options.Tokens has them, for links that
// open from now on. Whether tokens are asked for at all is decided in New.
func (m *Mesh) SetTokens(tokens ...string) error {
	if m.guard.tokens.Load() == nil {
		return errors.New("mesh: SetTokens: Options.Tokens was empty, so none are asked for")
	}
	s, err := access.NewSecrets(tokens...)
	if err != nil {
		return err
	}
	m.guard.tokens.Store(s)
	return nil
}

// SetRules exchanges the rules for messages that arrive from now on. Nil allows
// everything.
func (m *Mesh) SetRules(r *Rules) { m.guard.rules.Store(r) }

// security is what package channel asks for.
func (g *guard) security() channel.Security {
	s := channel.Security{Identify: g.identify}
	if g.tokens.Load() != nil {
		s.Show = shown{g}
	}
	if g.keys == nil {
		return s
	}
	clients := tls.RequireAndVerifyClientCert
	if g.tls.AnyClient {
		clients = tls.VerifyClientCertIfGiven
	}
	s.Listen = loudCreds{credentials.NewTLS(g.keys.Server(clients)), g}
	s.Dial = func(node, addr string) credentials.TransportCredentials {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			host = "localhost" // a unix socket
		}
		if !g.tls.NodeIdentity {
			node = ""
		}
		return credentials.NewTLS(g.keys.Client(host, node, g.tls.Domain))
	}
	return s
}

// shown is the token that is shown now.
type shown struct{ g *guard }

// GetRequestMetadata returns the token's header.
func (s shown) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	return s.g.tokens.Load().GetRequestMetadata(ctx, uri...)
}

// RequireTransportSecurity is false; see access.Secrets.
func (s shown) RequireTransportSecurity() bool { return false }

// loudCreds tells the log of handshakes that failed.
type loudCreds struct {
	credentials.TransportCredentials
	g *guard
}

// ServerHandshake is that of TLS.
func (c loudCreds) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := c.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		c.g.log.Warn("refused: TLS handshake failed", zap.String("addr", conn.RemoteAddr().String()), zap.Error(err))
	}
	return secured, info, err
}

// Clone keeps the log.
func (c loudCreds) Clone() credentials.TransportCredentials {
	return loudCreds{c.TransportCredentials.Clone(), c.g}
}

// identify says who opened a stream, or refuses it.
func (g *guard) identify(ctx context.Context, process string) ([]string, error) {
	names, err := g.prove(ctx, process)
	if err != nil {
		addr := ""
		if p, ok := peer.FromContext(ctx); ok {
			addr = p.Addr.String()
		}
		g.log.Warn("refused: "+status.Code(err).String(), zap.String("addr", addr), zap.String("process", process), zap.Error(err))
	}
	return names, err
}

func (g *guard) prove(ctx context.Context, process string) ([]string, error) {
	id := access.Identity{}
	if leaf := leafOf(ctx); leaf != nil {
		id.Names = access.NamesIn(leaf, g.tls.Domain)
	}
	if g.keys != nil && g.tls.NodeIdentity && process != "" && !id.Has(process) {
		return nil, status.Errorf(codes.PermissionDenied, "the hello says process %q; the certificate carries %q: use one of its names", process, id.Names)
	}
	if tokens := g.tokens.Load(); tokens != nil {
		md, _ := metadata.FromIncomingContext(ctx)
		if err := tokens.Check(md); err != nil {
			return nil, status.Error(codes.Unauthenticated, err.Error())
		}
		if len(id.Names) == 0 {
			id.Names = []string{access.Token}
		}
	}
	return id.Names, nil
}

// leafOf is the certificate that the peer of a stream showed, verified.
func leafOf(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil
	}
	return info.State.PeerCertificates[0]
}

// caller is by whose identity a message is judged: that of the first caller,
// where the peer says for whom it asks and a rule lets it be believed (the right
// "behalf"), else the peer's own.
func (g *guard) caller(r *channel.Request) access.Identity {
	if name := g.behalf(r); name != "" {
		return access.Identity{Names: []string{name}}
	}
	return access.Identity{Names: r.Peer.Identity}
}

// behalf is for whom the peer asks, where that is believed.
func (g *guard) behalf(r *channel.Request) string {
	if r.OnBehalf == "" {
		return ""
	}
	if rules := g.rules.Load(); rules == nil || !rules.May(access.Identity{Names: r.Peer.Identity}, access.Behalf) {
		return ""
	}
	return r.OnBehalf
}

// refuses says why a peer may not have a message handled, by the rules.
func (g *guard) refuses(r *channel.Request, s *Service) *channel.Failure {
	rules := g.rules.Load()
	if rules == nil {
		return nil
	}
	id := g.caller(r)
	allowed := false
	switch {
	case r.Name == "" && r.Handle == 0 && r.Method == methodQuery:
		allowed = rules.May(id, access.Query)
	case r.Name == "" && r.Handle == 0:
		allowed = rules.May(id, access.Process)
	default:
		allowed = rules.MayCall(id, s.reg.Names(), r.Name, r.Method)
	}
	if allowed {
		return nil
	}
	g.log.Warn("refused: not permitted by the rules", zap.String("peer", r.Peer.Process), zap.Strings("identity", r.Peer.Identity), zap.Strings("as", id.Names),
		zap.String("addr", r.Peer.Addr), zap.String("service", quoted(r)), zap.String("method", cut(r.Method)))
	return channel.Refuse(meshv1.Reason_REASON_NOT_PERMITTED, "not permitted: no rule of this process lets you call "+quoted(r)+" "+fmt.Sprintf("%q", cut(r.Method)))
}

// refusesServing says why a program may not register a name, by the rules.
func (g *guard) refusesServing(p *channel.Peer, name string) *channel.Failure {
	rules := g.rules.Load()
	if rules == nil || rules.MayServe(access.Identity{Names: p.Identity}, name) {
		return nil
	}
	g.log.Warn("refused: the rules do not let it serve this name", zap.String("peer", p.Process), zap.Strings("identity", p.Identity),
		zap.String("addr", p.Addr), zap.String("name", cut(name)))
	return channel.Refuse(meshv1.Reason_REASON_NOT_PERMITTED, fmt.Sprintf("not permitted: no rule of this process lets you serve %q", cut(name)))
}
