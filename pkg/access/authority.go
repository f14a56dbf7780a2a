package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
)

// Authority is a small CA for trying things out, for tests, and for teams that
// have none: a P-256 key that signs the certificates of nodes.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Pair is a certificate and its private key, in PEM.
type Pair struct{ Cert, Key []byte }

// clockSkew is how long before now a certificate becomes valid, for machines
// whose clocks are behind.
const clockSkew = 5 * time.Minute

// NewAuthority makes a CA that is valid for the given time.
func NewAuthority(name string, valid time.Duration) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t, err := template(name, valid)
	if err != nil {
		return nil, err
	}
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &Authority{cert, key}, err
}

// ParseAuthority reads what Pair returned.
func ParseAuthority(p Pair) (*Authority, error) {
	c, _ := pem.Decode(p.Cert)
	k, _ := pem.Decode(p.Key)
	if c == nil || k == nil {
		return nil, errors.New("a CA is a certificate and its key, both in PEM; this is none")
	}
	cert, err := x509.ParseCertificate(c.Bytes)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(k.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	switch {
	case !ok:
		return nil, fmt.Errorf("the CA's key is a %T; an ECDSA key is wanted", parsed)
	case !key.PublicKey.Equal(cert.PublicKey):
		return nil, errors.New("the CA's key is not that of its certificate")
	case !cert.IsCA:
		return nil, errors.New("the certificate is no CA's")
	}
	return &Authority{cert, key}, nil
}

// Pair is the CA itself. Its key signs for the whole mesh: keep it away from
// the nodes.
func (a *Authority) Pair() (Pair, error) { return encode(a.cert.Raw, a.key) }

// Subject says for whom a certificate is.
type Subject struct {
	// Names of processes and nodes: they become spiffe://Domain/node/NAME.
	Names []string
	// Domain is the SPIFFE trust domain of the names.
	Domain string
	// Hosts are DNS names and IP addresses under which the process is dialled.
	Hosts []string
	// Valid is how long it is valid.
	Valid time.Duration
}

// Issue signs a certificate for both ends of a link.
func (a *Authority) Issue(s Subject) (Pair, error) {
	if len(s.Names)+len(s.Hosts) == 0 {
		return Pair{}, errors.New("a certificate needs a name or a host")
	}
	first := append(s.Names[:len(s.Names):len(s.Names)], s.Hosts...)[0]
	t, err := template(first, s.Valid)
	if err != nil {
		return Pair{}, err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, n := range s.Names {
		switch {
		case !isName(n):
			return Pair{}, fmt.Errorf("name %q: 1 to 255 letters, digits, '_', '-' and '.'", n)
		case s.Domain == "":
			return Pair{}, errors.New("names need a trust domain")
		}
		t.URIs = append(t.URIs, &url.URL{Scheme: "spiffe", Host: s.Domain, Path: nodePath + n})
	}
	for _, h := range s.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return Pair{}, err
	}
	return encode(der, key)
}

func template(name string, valid time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name[:min(len(name), 64)]},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(valid),
	}, nil
}

func encode(der []byte, key *ecdsa.PrivateKey) (Pair, error) {
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}),
	}, nil
}
