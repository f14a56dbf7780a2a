//go:build !linux

package channel

import "net"

// tune does nothing where the kernel has no TCP_NOTSENT_LOWAT.
func tune(net.Conn) {}
