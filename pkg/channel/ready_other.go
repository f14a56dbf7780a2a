//go:build !linux

package channel

import "net"

// readyRead is for Linux: elsewhere gRPC holds a buffer for each connection.
type readyRead struct{}

func (*readyRead) init(net.Conn) {}
