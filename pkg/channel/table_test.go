package channel

import (
	"net"
	"slices"
	"strings"
	"testing"
)

// wrongNodes is what CheckNode says of a name (M1).
var wrongNodes = []struct{ name, text string }{
	{"", `the node name is empty: write letters, digits, "_" and "-"`},
	{strings.Repeat("a", 256), "the node name is 256 bytes long: use at most 255"},
	{"__nowaiting", `the node name begins with "__", which is for options: choose another`},
	{"__", `the node name begins with "__", which is for options: choose another`},
	{"a.b", `"." is not allowed in a node name: use letters, digits, "_" and "-"`},
	{"db@sdb", `"@" is not allowed in a node name: use letters, digits, "_" and "-"`},
	{"bücher", `"ü" is not allowed in a node name: use letters, digits, "_" and "-"`},
	{"a\x00", `"\x00" is not allowed in a node name: use letters, digits, "_" and "-"`},
	{"a\xff", `"\xff" is not allowed in a node name: use letters, digits, "_" and "-"`},
	{"a\u202eb", `"\u202e" is not allowed in a node name: use letters, digits, "_" and "-"`},
	{" db", `" " is not allowed in a node name: use letters, digits, "_" and "-"`},
}

func TestCheckNode(t *testing.T) {
	for _, name := range []string{"a", "db", "12", "-", "_", "_x", "a__b", "DB-1_x", strings.Repeat("a", 255)} {
		if err := CheckNode(name); err != nil {
			t.Errorf("CheckNode(%q) = %v", name, err)
		}
	}
	for _, w := range wrongNodes {
		if err := CheckNode(w.name); err == nil || err.Error() != w.text {
			t.Errorf("CheckNode(%q)\n got %v\nwant %s", w.name, err, w.text)
		}
	}
}

var rightAddrs = []string{
	"127.0.0.1:2528", "10.0.0.1:1", "10.0.0.1:65535", "0.0.0.0:2528", "[::1]:2528", "[::]:2528", "[fe80::1%eth0]:2528",
	"[::ffff:127.0.0.1]:1", "localhost:2528", "db:2528", "db-1.example.com:2528", "db.example.com.:2528", "my_db:2528",
	"1db:2528", "3com.example:2528", "10.0.0.1.example:80", strings.Repeat("a", 63) + ":1",
	strings.Repeat("abcdefg.", 31) + "abcde:1", // 253 bytes of host
	"unix:/run/mesh.sock", "unix:mesh.sock", "unix:./@mesh", "unix:/a:b", "unix:" + strings.Repeat("a", 107),
}

func TestCheckAddrTakes(t *testing.T) {
	for _, addr := range rightAddrs {
		if err := CheckAddr(addr); err != nil {
			t.Errorf("CheckAddr(%q) = %v", addr, err)
		}
		if err := CheckListenAddr(addr); err != nil {
			t.Errorf("CheckListenAddr(%q) = %v", addr, err)
		}
	}
}

// wrongAddrs is what CheckAddr says of an address, after the address (M1).
var wrongAddrs = []struct{ addr, text string }{
	{"\xff:1", "is not UTF-8: write it in ASCII"},
	{"db:2528 ", "begins or ends with a space: remove it"},
	{"\tdb:2528", "begins or ends with a space: remove it"},
	{"db:2528\n", "begins or ends with a space: remove it"},
	{"db: 2528", "has a space or a control character in it: remove it"},
	{"unix:/a b", "has a space or a control character in it: remove it"},
	{"d\x00b:2528", "has a space or a control character in it: remove it"},
	{"d\u200bb:2528", "has a space or a control character in it: remove it"},
	{"http://db:2528", `has a scheme: write "host:port" or "unix:/path"`},
	{"unix:///run/x", `has a scheme: write "host:port" or "unix:/path"`},
	{"unix:", `has no path: write "unix:/path"`},
	{"unix:" + strings.Repeat("a", 108), "has a path of 108 bytes: a unix socket takes at most 107"},
	{"unix:@x", `is an abstract socket: write a path ("unix:./@name" for a file of that name)`},
	{"db", `has no port: write "host:port"`},
	{"10.0.0.1", `has no port: write "host:port"`},
	{"2528", `has no port: write "host:port"`},
	{"::1", `has an IPv6 address without brackets: write "[::1]:port"`},
	{"::1:2528", `has an IPv6 address without brackets: write "[::1]:port"`},
	{"1:2:3:4:5:6:7:8:2528", `has an IPv6 address without brackets: write "[::1]:port"`},
	{"a:b:1", `has more than one ":": write "host:port"`},
	{"[::1:2528", `has no "]": write "[::1]:port"`},
	{"[::1]", `has no port after its "]": write "[::1]:port"`},
	{"[::1]2528", `has no port after its "]": write "[::1]:port"`},
	{"[::1]:", `has no port after its ":": write "host:port"`},
	{"[]:2528", `has no IPv6 address in its brackets: write "[::1]:port", or any other host without brackets`},
	{"[10.0.0.1]:1", `has no IPv6 address in its brackets: write "[::1]:port", or any other host without brackets`},
	{"[db]:2528", `has no IPv6 address in its brackets: write "[::1]:port", or any other host without brackets`},
	{"db:", `has no port after its ":": write "host:port"`},
	{"db:http", `has the port "http", which is not a number: write 1 to 65535`},
	{"db:+80", `has the port "+80", which is not a number: write 1 to 65535`},
	{"db:-1", `has the port "-1", which is not a number: write 1 to 65535`},
	{"db:80/x", `has the port "80/x", which is not a number: write 1 to 65535`},
	{"db:65536", "has the port 65536, which is out of range: write 1 to 65535"},
	{"db:99999999999999999999999", "has the port 99999999999999999999, which is out of range: write 1 to 65535"},
	{strings.Repeat("abcdefg.", 31) + "abcdef:1", "has a host name of 254 bytes: a name has at most 253"},
	{strings.Repeat("a", 64) + ":1", "has a label of 64 bytes in its host name: a label has at most 63"},
	{"me@db:2528", `has "@" in its host name: use letters, digits, "-", "_" and "."`},
	{"bücher:2528", `has "ü" in its host name: use letters, digits, "-", "_" and "."`},
	{"-db:2528", `has a label that begins or ends with "-" in its host name: no DNS name does`},
	{"db-.x:2528", `has a label that begins or ends with "-" in its host name: no DNS name does`},
	{"db..x:2528", `has an empty label in its host name: write one "." between two labels`},
	{".:2528", `has an empty label in its host name: write one "." between two labels`},
	{"256.0.0.1:1", "has a host that ends with a number and is no IPv4 address: write four numbers of 0 to 255, or a name"},
	{"10.0.0:2528", "has a host that ends with a number and is no IPv4 address: write four numbers of 0 to 255, or a name"},
	{"010.0.0.1:80", "has a host that ends with a number and is no IPv4 address: write four numbers of 0 to 255, or a name"},
}

// listenOnly are right to listen on and wrong to dial.
var listenOnly = []struct{ addr, text string }{
	{"127.0.0.1:0", "has port 0, which nobody can dial: write the port that the node listens on"},
	{"[::1]:0", "has port 0, which nobody can dial: write the port that the node listens on"},
	{":2528", `has no host: write "host:port"`},
	{":0", `has no host: write "host:port"`},
}

func TestCheckAddrRefuses(t *testing.T) {
	check := func(f func(string) error, name, addr, text string) {
		t.Helper()
		if err := f(addr); err == nil || !strings.HasSuffix(err.Error(), text) {
			t.Errorf("%s(%q)\n got %v\nwant %s", name, addr, err, text)
		}
	}
	check(CheckAddr, "CheckAddr", "", `the address is empty: write "host:port" or "unix:/path"`)
	check(CheckAddr, "CheckAddr", "db", `address "db" has no port: write "host:port"`)
	for _, w := range wrongAddrs {
		check(CheckAddr, "CheckAddr", w.addr, w.text)
		check(CheckListenAddr, "CheckListenAddr", w.addr, w.text)
	}
	for _, w := range listenOnly {
		check(CheckAddr, "CheckAddr", w.addr, w.text)
		if err := CheckListenAddr(w.addr); err != nil {
			t.Errorf("CheckListenAddr(%q) = %v", w.addr, err)
		}
	}
}

// What is local may be spoken to in clear (M61), so doubt means no.
func TestIsLocal(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:1": true, "127.9.9.9:0": true, "[::1]:1": true, "[::ffff:127.0.0.1]:1": true, "localhost:1": true,
		"LocalHost.:1": true, "unix:/x": true, "unix:x": true,
		"": false, ":1": false, "0.0.0.0:1": false, "[::]:1": false, "10.0.0.1:1": false, "localhost.evil:1": false,
		"xlocalhost:1": false, "127.0.0.1.evil:1": false, "128.0.0.1:1": false, "localhost": false, "unix:": false,
		"[::ffff:10.0.0.1]:1": false, "[::1]": false, "127.0.0.1": false,
	} {
		if IsLocal(addr) != want {
			t.Errorf("IsLocal(%q) = %v", addr, !want)
		}
	}
}

func TestNetwork(t *testing.T) {
	for addr, want := range map[string][2]string{
		"db:1": {"tcp", "db:1"}, "[::1]:1": {"tcp", "[::1]:1"}, ":0": {"tcp", ":0"},
		"unix:/x": {"unix", "/x"}, "unix:a:b": {"unix", "a:b"},
	} {
		if network, address := Network(addr); network != want[0] || address != want[1] {
			t.Errorf("Network(%q) = %q, %q", addr, network, address)
		}
	}
}

// FuzzCheckAddr: what passes can be given to net, and errors are one line.
func FuzzCheckAddr(f *testing.F) {
	for _, addr := range rightAddrs {
		f.Add(addr)
	}
	for _, w := range slices.Concat(wrongAddrs, listenOnly) {
		f.Add(w.addr)
	}
	f.Fuzz(func(t *testing.T, addr string) {
		IsLocal(addr)
		dial, listen := CheckAddr(addr), CheckListenAddr(addr)
		if dial == nil && listen != nil {
			t.Fatalf("may be dialled and not listened on: %v", listen)
		}
		if listen != nil {
			if strings.ContainsAny(listen.Error(), "\n\r") || len(listen.Error()) > 2000 {
				t.Fatalf("error is long or has several lines: %q", listen)
			}
			return
		}
		network, address := Network(addr)
		if network == "unix" {
			return
		}
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := net.LookupPort("tcp", port); err != nil {
			t.Fatal(err)
		}
	})
}
