package channel

import (
	"net"
	"syscall"
)

const tcpNotSentLowat = 25 // TCP_NOTSENT_LOWAT, which package syscall does not name

// tune keeps what the kernel holds ahead of a small frame short: on a slow line
// a heartbeat waits for at most so many unsent bytes.
func tune(conn net.Conn) {
	t, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := t.SyscallConn(); err == nil {
		// Where the kernel refuses, the link is only slower to notice.
		_ = raw.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, 128<<10)
		})
	}
}
