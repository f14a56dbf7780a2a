package access

import (
	"crypto/x509"
	"slices"
	"strings"
)

// Identity is who a peer is, proved and not merely said. The zero value is a
// peer of whom nothing was proved.
type Identity struct {
	// Names are those that its certificate carries, or Token alone.
	Names []string
}

// Token is the name of peers that showed the shared token and no certificate.
const Token = "token"

// Unknown is how rules name a peer of whom nothing was proved.
const Unknown = "unknown"

// String is the first name; "" where nothing was proved.
func (i Identity) String() string {
	if len(i.Names) == 0 {
		return ""
	}
	return i.Names[0]
}

// Has says that the identity carries the name.
func (i Identity) Has(name string) bool { return slices.Contains(i.Names, name) }

// nodePath is what stands before a node's name in a SPIFFE id.
const nodePath = "/node/"

// NamesIn returns the names that a certificate carries: those of its URIs
// spiffe://DOMAIN/node/NAME, or where it has no such URI its DNS names, as they
// are. Where domain is not empty, URIs of other domains do not count. A
// certificate with neither carries no name; its subject is not looked at.
func NamesIn(c *x509.Certificate, domain string) []string {
	if c == nil {
		return nil
	}
	var names []string
	add := func(n string) {
		if isName(n) && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	for _, u := range c.URIs {
		if u.Scheme != "spiffe" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || domain != "" && u.Host != domain {
			continue
		}
		if n, ok := strings.CutPrefix(u.EscapedPath(), nodePath); ok {
			add(n)
		}
	}
	if len(names) == 0 {
		for _, n := range c.DNSNames {
			add(n)
		}
	}
	return names
}

// isName says that a text may be the name of a process: what looks like another
// name must not pass for it.
func isName(n string) bool {
	return n != "" && len(n) <= 255 && !strings.ContainsFunc(n, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-' && r != '.'
	})
}
