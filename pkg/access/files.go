// Package access says who a peer is and what it may do: certificates from files
// that may change while everything runs, names that a certificate carries, a
// token that a team shares, and rules for names and methods.
package access

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Files names the PEM files of a process. They are looked at again, at most
// once a second, when a connection is made; connections that are open stay as
// they are.
type Files struct {
	// Cert is the certificate, and those between it and its CA.
	Cert string
	// Key is the certificate's private key.
	Key string
	// CA holds the certificates of those who sign for peers.
	CA string
}

// lookAgain is how old what was read may be before the files are looked at.
const lookAgain = time.Second

// keys is what the files held at one moment.
type keys struct {
	cert  tls.Certificate
	roots *x509.CertPool
	sum   [sha256.Size]byte
}

// Keys are the certificates of a process, as its files have them now. A change
// that is not right leaves the last that was. It is safe for concurrent use.
type Keys struct {
	files   Files
	changed func(error)
	now     atomic.Pointer[keys]
	looked  atomic.Int64 // nanoseconds since base
	base    time.Time

	mu  sync.Mutex
	bad [sha256.Size]byte // what was refused last, and told
}

// Open reads the files. changed is told of each change that was taken (nil) or
// refused (why); it may be nil.
func Open(f Files, changed func(error)) (*Keys, error) {
	if changed == nil {
		changed = func(error) {}
	}
	k := &Keys{files: f, changed: changed, base: time.Now()}
	first, err := f.read(time.Now())
	if err != nil {
		return nil, err
	}
	k.now.Store(first)
	return k, nil
}

// current returns the newest keys that are right.
func (k *Keys) current() *keys {
	since := int64(time.Since(k.base))
	if last := k.looked.Load(); since-last >= int64(lookAgain) && k.looked.CompareAndSwap(last, since) {
		k.look()
	}
	return k.now.Load()
}

func (k *Keys) look() {
	k.mu.Lock()
	defer k.mu.Unlock()
	sum, err := k.files.sum()
	if err == nil && (sum == k.now.Load().sum || sum == k.bad) {
		return
	}
	var next *keys
	if err == nil {
		next, err = k.files.read(time.Now())
	}
	if err != nil {
		told := sha256.Sum256([]byte(err.Error()))
		if sum != [sha256.Size]byte{} {
			told = sum
		}
		if told != k.bad {
			k.bad = told
			k.changed(fmt.Errorf("the certificates stay as they were: %w", err))
		}
		return
	}
	k.bad = [sha256.Size]byte{}
	k.now.Store(next)
	k.changed(nil)
}

// content is what the three files hold.
func (f Files) content() (c [3][]byte, err error) {
	for i, name := range []struct{ what, path string }{{"certificate", f.Cert}, {"key", f.Key}, {"CA", f.CA}} {
		if name.path == "" {
			return c, fmt.Errorf("no file is named for the %s: TLS needs a certificate, its key, and the CA of the peers", name.what)
		}
		if c[i], err = os.ReadFile(name.path); err != nil {
			return c, fmt.Errorf("the %s cannot be read: %w", name.what, err)
		}
	}
	return c, nil
}

func (f Files) sum() (sum [sha256.Size]byte, err error) {
	c, err := f.content()
	if err != nil {
		return sum, err
	}
	return sumOf(c), nil
}

func sumOf(c [3][]byte) [sha256.Size]byte {
	return sha256.Sum256(bytes.Join(c[:], []byte{0}))
}

// read checks the files as a whole.
func (f Files) read(now time.Time) (*keys, error) {
	c, err := f.content()
	if err != nil {
		return nil, err
	}
	k := &keys{roots: x509.NewCertPool(), sum: sumOf(c)}
	if k.cert, err = tls.X509KeyPair(c[0], c[1]); err != nil {
		return nil, fmt.Errorf("%s and %s are no certificate with its key, in PEM: %w", f.Cert, f.Key, errors.New(withoutPrefix(err)))
	}
	if !k.roots.AppendCertsFromPEM(c[2]) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", f.CA)
	}
	switch leaf := k.cert.Leaf; {
	case now.After(leaf.NotAfter):
		return nil, fmt.Errorf("the certificate in %s expired on %s", f.Cert, leaf.NotAfter.UTC().Format(time.DateTime))
	case now.Before(leaf.NotBefore):
		return nil, fmt.Errorf("the certificate in %s is valid from %s on; it is %s now", f.Cert,
			leaf.NotBefore.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime))
	}
	return k, nil
}

// withoutPrefix is what crypto/tls says, without its name. Its errors name
// what is wrong with a key, and hold nothing of it.
func withoutPrefix(err error) string {
	text, prefix := err.Error(), "tls: "
	if len(text) > len(prefix) && text[:len(prefix)] == prefix {
		return text[len(prefix):]
	}
	return text
}

// Names are the names that this process's own certificate carries.
func (k *Keys) Names(domain string) []string { return NamesIn(k.current().cert.Leaf, domain) }

// protocols is what gRPC speaks in TLS.
var protocols = [...]string{"h2"}

// Server is the TLS of a listener. Peers need a certificate of the CA, where
// clients is tls.RequireAndVerifyClientCert. Sessions are not resumed, so that
// every connection is checked with the certificates of its moment.
func (k *Keys) Server(clients tls.ClientAuthType) *tls.Config {
	base := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: protocols[:], SessionTicketsDisabled: true}
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now, c := k.current(), base.Clone()
		c.GetConfigForClient = nil
		c.Certificates, c.ClientCAs, c.ClientAuth = []tls.Certificate{now.cert}, now.roots, clients
		return c, nil
	}
	return base
}

// Client is the TLS of one dial to host. Where node is not empty, the peer's
// certificate must carry that node's name, and the host does not matter.
func (k *Keys) Client(host, node, domain string) *tls.Config {
	now := k.current()
	c := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: protocols[:], RootCAs: now.roots, ServerName: host,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &now.cert, nil },
	}
	if node != "" {
		c.InsecureSkipVerify = true // VerifyConnection does it, by another name
		c.VerifyConnection = func(s tls.ConnectionState) error { return now.verifyNode(s, node, domain) }
	}
	return c
}

// verifyNode checks that a listener's certificate is of the CA and carries the
// node's name.
func (k *keys) verifyNode(s tls.ConnectionState, node, domain string) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the node showed no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	leaf := s.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: k.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return err
	}
	names := NamesIn(leaf, domain)
	for _, n := range names {
		if n == node {
			return nil
		}
	}
	return fmt.Errorf("the certificate is for %q; node identity asks for %q", names, node)
}
