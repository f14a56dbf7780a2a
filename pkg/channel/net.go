package channel

import (
	"context"
	"fmt"
	"net"
)

// NetListen listens for something else than links, under the same rules: the
// address is checked, plaintext leaves the machine only where that is allowed,
// and connections above Limits.Links and 64 more are closed.
func (m *Manager) NetListen(addr string) (net.Listener, error) {
	if err := CheckListenAddr(addr); err != nil {
		return nil, err
	}
	return m.listen(addr)
}

func (m *Manager) listen(addr string) (*connListener, error) {
	if !m.opt.mayListen(addr) {
		return nil, fmt.Errorf("listen %s: %w", addr, errPlaintext)
	}
	lis, err := m.opt.Listen(addr)
	if err != nil {
		return nil, err
	}
	return newConnListener(lis, m.opt.Limits.Links+extraConnections), nil
}

// CheckDial says what is wrong with an address for NetDial, which speaks
// plaintext.
func (m *Manager) CheckDial(addr string) error {
	if err := CheckAddr(addr); err != nil {
		return err
	}
	if !m.opt.Insecure && !IsLocal(addr) {
		return errPlaintext
	}
	return nil
}

// NetDial connects to addr for something else than a link, in plaintext, under
// the same rules.
func (m *Manager) NetDial(ctx context.Context, addr string) (net.Conn, error) {
	if err := m.CheckDial(addr); err != nil {
		return nil, err
	}
	return m.opt.Dial(ctx, addr)
}
