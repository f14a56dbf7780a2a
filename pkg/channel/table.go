package channel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// EntryKind says what the table knows of a node.
type EntryKind uint8

// The kinds of an Entry. A node that was never mentioned is Absent.
const (
	// Absent: the table has no address; callers wait for one (M7).
	Absent EntryKind = iota
	// Down: the node is known to be away; callers fail at once (M8).
	Down
	// Address: the node is at Entry.Addr.
	Address
)

// Entry is what the table says of a node. Addr is set for the kind Address
// only, so that two entries that mean the same are equal.
type Entry struct {
	Kind EntryKind
	Addr string // as CheckAddr takes it
}

// Update is one reload that was checked as a whole: every name passed
// CheckNode and every address CheckAddr.
type Update struct {
	// Nodes are the nodes that the reload mentions. Others keep what they
	// have (M3).
	Nodes map[string]Entry
	// NoWaiting is what the option says, nil where the reload does not
	// mention it: as it was (M2).
	NoWaiting *bool
}

const (
	maxNodeName  = 255 // bytes (M1)
	maxHostName  = 253 // bytes, as DNS has it
	maxHostLabel = 63  // bytes, as DNS has it
	maxUnixPath  = 107 // bytes: sun_path of Linux without its final NUL
	unixPrefix   = "unix:"
)

// CheckNode says what is wrong with a node name, and what to do. A right one is
// 1 to 255 bytes of letters, digits, "_" and "-" (ASCII), and does not begin
// with "__" (M1). The error does not repeat the name.
func CheckNode(name string) error {
	switch {
	case name == "":
		return errors.New(`the node name is empty: write letters, digits, "_" and "-"`)
	case len(name) > maxNodeName:
		return fmt.Errorf("the node name is %d bytes long: use at most %d", len(name), maxNodeName)
	case strings.HasPrefix(name, "__"):
		return errors.New(`the node name begins with "__", which is for options: choose another`)
	}
	if i := strings.IndexFunc(name, notWord); i >= 0 {
		return fmt.Errorf(`%s is not allowed in a node name: use letters, digits, "_" and "-"`, charAt(name, i))
	}
	return nil
}

// CheckAddr says what is wrong with an address to dial, and what to do. A right
// one is "host:port" or "unix:path" (M1). The host is an IPv4 address, an IPv6
// address in brackets (a zone is allowed) or a host name; the port is 1 to 65535.
func CheckAddr(addr string) error { return checkAddr(addr, false) }

// CheckListenAddr is CheckAddr for an address to listen on: port 0 picks a free
// one, and without a host (":2528") it is every address of the machine.
func CheckListenAddr(addr string) error { return checkAddr(addr, true) }

// IsLocal says whether whatever dials or listens on addr stays on this machine:
// a loopback address, "localhost", or a unix socket. An address without a host,
// 0.0.0.0, and one that CheckListenAddr refuses are not local.
func IsLocal(addr string) bool {
	if CheckListenAddr(addr) != nil {
		return false
	}
	network, address := Network(addr)
	if network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().IsLoopback()
	}
	return strings.EqualFold(strings.TrimSuffix(host, "."), "localhost")
}

// Network splits a checked address into what net.Dial and net.Listen take:
// "tcp" and the address as it is, or "unix" and the path.
func Network(addr string) (network, address string) {
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		return "unix", path
	}
	return "tcp", addr
}

func checkAddr(addr string, listen bool) error {
	wrong := func(what string) error { return fmt.Errorf("address %.300q %s", addr, what) }
	switch {
	case addr == "":
		return errors.New(`the address is empty: write "host:port" or "unix:/path"`)
	case !utf8.ValidString(addr):
		return wrong("is not UTF-8: write it in ASCII")
	case strings.TrimSpace(addr) != addr:
		return wrong("begins or ends with a space: remove it")
	case strings.ContainsFunc(addr, notVisible):
		return wrong("has a space or a control character in it: remove it")
	case strings.Contains(addr, "://"):
		return wrong(`has a scheme: write "host:port" or "unix:/path"`)
	}
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		if err := checkUnixPath(path); err != nil {
			return wrong(err.Error())
		}
		return nil
	}
	host, port, err := splitAddr(addr)
	if err == nil && (!listen || host != "") {
		err = checkHost(host)
	}
	if err == nil {
		err = checkPort(port, listen)
	}
	if err != nil {
		return wrong(err.Error())
	}
	return nil
}

func checkUnixPath(path string) error {
	switch {
	case path == "":
		return errors.New(`has no path: write "unix:/path"`)
	case len(path) > maxUnixPath:
		return fmt.Errorf("has a path of %d bytes: a unix socket takes at most %d", len(path), maxUnixPath)
	case path[0] == '@':
		// net would make it an abstract socket, which no file permission guards.
		return errors.New(`is an abstract socket: write a path ("unix:./@name" for a file of that name)`)
	}
	return nil
}

// splitAddr cuts host from port. It is not net.SplitHostPort because that one
// does not say what to do.
func splitAddr(addr string) (host, port string, err error) {
	if strings.HasPrefix(addr, "[") {
		return splitBrackets(addr)
	}
	cut := strings.LastIndexByte(addr, ':')
	switch {
	case cut < 0:
		return "", "", errors.New(`has no port: write "host:port"`)
	case isIPv6(addr) || isIPv6(addr[:cut]):
		return "", "", errors.New(`has an IPv6 address without brackets: write "[::1]:port"`)
	case strings.IndexByte(addr, ':') != cut:
		return "", "", errors.New(`has more than one ":": write "host:port"`)
	}
	return addr[:cut], addr[cut+1:], nil
}

// splitBrackets is splitAddr for "[IPv6]:port".
func splitBrackets(addr string) (host, port string, err error) {
	end := strings.IndexByte(addr, ']')
	if end < 0 {
		return "", "", errors.New(`has no "]": write "[::1]:port"`)
	}
	host, rest := addr[1:end], addr[end+1:]
	if !isIPv6(host) {
		return "", "", errors.New(`has no IPv6 address in its brackets: write "[::1]:port", or any other host without brackets`)
	}
	port, ok := strings.CutPrefix(rest, ":")
	if !ok {
		return "", "", errors.New(`has no port after its "]": write "[::1]:port"`)
	}
	return host, port, nil
}

func checkPort(port string, listen bool) error {
	if port == "" {
		return errors.New(`has no port after its ":": write "host:port"`)
	}
	if strings.ContainsFunc(port, notDigit) {
		return fmt.Errorf("has the port %.20q, which is not a number: write 1 to 65535", port)
	}
	n, err := strconv.Atoi(port)
	switch {
	case err != nil || n > 65535:
		return fmt.Errorf("has the port %.20s, which is out of range: write 1 to 65535", port)
	case n == 0 && !listen:
		return errors.New("has port 0, which nobody can dial: write the port that the node listens on")
	}
	return nil
}

func checkHost(host string) error {
	if host == "" {
		return errors.New(`has no host: write "host:port"`)
	}
	if isIPv6(host) || isIPv4(host) {
		return nil
	}
	name := strings.TrimSuffix(host, ".")
	if len(name) > maxHostName {
		return fmt.Errorf("has a host name of %d bytes: a name has at most %d", len(name), maxHostName)
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return r != '.' && notWord(r) }); i >= 0 {
		return fmt.Errorf(`has %s in its host name: use letters, digits, "-", "_" and "."`, charAt(name, i))
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		switch {
		case label == "":
			return errors.New(`has an empty label in its host name: write one "." between two labels`)
		case len(label) > maxHostLabel:
			return fmt.Errorf("has a label of %d bytes in its host name: a label has at most %d", len(label), maxHostLabel)
		case label[0] == '-' || label[len(label)-1] == '-':
			return errors.New(`has a label that begins or ends with "-" in its host name: no DNS name does`)
		}
	}
	if !strings.ContainsFunc(labels[len(labels)-1], notDigit) {
		return errors.New("has a host that ends with a number and is no IPv4 address: write four numbers of 0 to 255, or a name")
	}
	return nil
}

func isIPv4(s string) bool {
	ip, err := netip.ParseAddr(s)
	return err == nil && ip.Is4()
}

func isIPv6(s string) bool {
	ip, err := netip.ParseAddr(s)
	return err == nil && ip.Is6()
}

func notWord(r rune) bool {
	letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	return !letter && notDigit(r) && r != '_' && r != '-'
}

func notDigit(r rune) bool { return r < '0' || r > '9' }

func notVisible(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }

// charAt quotes the character at byte i of s, a byte that is not UTF-8 included.
func charAt(s string, i int) string {
	_, n := utf8.DecodeRuneInString(s[i:])
	return strconv.Quote(s[i : i+n])
}
