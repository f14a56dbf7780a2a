package mesh

import (
	"context"
	"net"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/meshnode/meshnode/pkg/access"
	"github.com/meshnode/meshnode/pkg/channel"
)

// NetListen listens at an address as Open does: through Options.Listen, in
// plaintext off loopback and unix sockets only where Options.Insecure allows it,
// and with at most Limits.Links and 64 connections at a time; one more is closed.
// It is for what stands beside the mesh in its process, as package gateway does;
// a gRPC server there has the option Credentials, and asks Admit.
func (m *Mesh) NetListen(addr string) (net.Listener, error) { return m.ch.NetListen(addr) }

// Credentials make a gRPC server speak TLS where the process's listeners do.
func (m *Mesh) Credentials() grpc.ServerOption {
	if creds := m.guard.security().Listen; creds != nil {
		return grpc.Creds(creds)
	}
	return grpc.Creds(insecure.NewCredentials())
}

// Admit says for whom a call to a gRPC server of this process is, or refuses it:
// one without a token that is right, where tokens are asked for, is
// UNAUTHENTICATED; one of whom the rules say that it may not have calls passed on
// is PERMISSION_DENIED. ctx is that of the gRPC handler, md its metadata, which
// loses the token. The name is for Forwarded; it is access.Unknown where nothing was
// proved.
func (m *Mesh) Admit(ctx context.Context, md metadata.MD) (onBehalf string, err error) {
	names, err := m.guard.identify(ctx, "")
	if err != nil {
		return "", err
	}
	m.dropToken(md)
	id := access.Identity{Names: names}
	if rules := m.guard.rules.Load(); rules != nil && !rules.May(id, access.Forward) {
		m.guard.log.Warn("refused: the rules do not let it have calls passed on", zap.Strings("identity", names))
		e := channel.NewError(NotSent, ErrNotPermitted, "not permitted: no rule of this process lets it pass your calls on (rights: [forward])")
		e.Code = codes.PermissionDenied
		return "", e
	}
	if len(names) == 0 {
		return access.Unknown, nil // else the target would judge it as this process
	}
	return id.String(), nil
}

// dropToken keeps the token from going on.
func (m *Mesh) dropToken(md metadata.MD) {
	if m.guard.tokens.Load() != nil {
		access.DropToken(md)
	}
}

// NetDial connects to an address through Options.Dial, in plaintext, and thus
// off loopback and unix sockets only where Options.Insecure allows it. CheckDial
// says beforehand what is wrong with an address.
func (m *Mesh) NetDial(ctx context.Context, addr string) (net.Conn, error) {
	return m.ch.NetDial(ctx, addr)
}

// CheckDial says what is wrong with an address for NetDial: it is malformed, or
// plaintext to it is not allowed.
func (m *Mesh) CheckDial(addr string) error { return m.ch.CheckDial(addr) }

// Limits returns the bounds of the process, with the defaults filled in.
func (m *Mesh) Limits() Limits { return m.opt.Limits }
