package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshnode/meshnode/pkg/access"
)

// The files of a CA, in the directory of --dir.
const (
	caCert = "ca.pem"
	caKey  = "ca-key.pem"
)

// certMaker makes certificates in one directory.
type certMaker struct {
	dir, domain string
	hosts       []string
	days        int
	force       bool
}

func newCert() *cobra.Command {
	var c certMaker
	cmd := &cobra.Command{
		Use:   "cert NAME...",
		Short: "make a small CA, and certificates for nodes",
		Long: `cert makes a certificate that carries the names of a process and its nodes, signed
by the CA in the same directory. The CA is made first where there is none.

It is meant for trying TLS out, and for teams without a CA of their own. Keep
` + caKey + ` away from the nodes: whoever has it can be any of them.

Files, for 'meshnode cert db': ` + caCert + `, ` + caKey + `, db.pem, db-key.pem. A file that is
there stays, unless --force is given; the CA always stays. A process that runs
takes a new certificate by itself.`,
		Example: `  meshnode cert --dir certs db db2
  meshnode cert --dir certs --host web.example --host 10.0.0.7 web
  meshnode serve --tls-cert certs/db.pem --tls-key certs/db-key.pem --tls-ca certs/ca.pem --node-identity ...`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("for whom is the certificate? Give the names of the process and its nodes, the process's first")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, names []string) error {
			made, err := c.run(names)
			for _, path := range made {
				fmt.Fprintln(cmd.OutOrStdout(), path)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&c.dir, "dir", ".", "`DIRECTORY` of the CA and of what is made")
	flags.StringVar(&c.domain, "trust-domain", "mesh", "SPIFFE `DOMAIN` of the names: spiffe://DOMAIN/node/NAME")
	flags.StringArrayVar(&c.hosts, "host", []string{"localhost", "127.0.0.1", "::1"}, "host name or IP `ADDRESS` under which it is dialled; repeatable")
	flags.IntVar(&c.days, "days", 90, "how many days it is valid; a new CA is for ten times as many")
	flags.BoolVar(&c.force, "force", false, "replace a certificate that is there")
	return cmd
}

// run returns the files that it made.
func (c *certMaker) run(names []string) (made []string, err error) {
	if c.days < 1 || c.days > 36500 {
		return nil, usagef("--days %d: it is 1 to 36500", c.days)
	}
	cert, key := filepath.Join(c.dir, names[0]+".pem"), filepath.Join(c.dir, names[0]+"-key.pem")
	if slices.Contains([]string{caCert, caKey}, filepath.Base(cert)) {
		return nil, usagef("%q is the CA's own file: choose another first name", names[0])
	}
	if _, err := os.Stat(cert); err == nil && !c.force {
		return nil, usagef("%s is there already: give --force to replace it", cert)
	}
	ca, fresh, err := c.authority()
	if err != nil {
		return nil, err
	}
	p, err := ca.Issue(access.Subject{Names: names, Domain: c.domain, Hosts: c.hosts, Valid: c.time()})
	if err != nil {
		return nil, usagef("%w", err)
	}
	if fresh {
		own, err := ca.Pair()
		if err != nil {
			return nil, err
		}
		if made, err = writePair(filepath.Join(c.dir, caCert), filepath.Join(c.dir, caKey), own); err != nil {
			return made, err
		}
	}
	more, err := writePair(cert, key, p)
	return append(made, more...), err
}

func (c *certMaker) time() time.Duration { return time.Duration(c.days) * 24 * time.Hour }

// authority reads the CA of the directory, or makes one.
func (c *certMaker) authority() (ca *access.Authority, fresh bool, err error) {
	cert, errCert := os.ReadFile(filepath.Join(c.dir, caCert))
	key, errKey := os.ReadFile(filepath.Join(c.dir, caKey))
	switch {
	case errors.Is(errCert, fs.ErrNotExist) && errors.Is(errKey, fs.ErrNotExist):
		ca, err = access.NewAuthority("meshnode CA", min(10*c.time(), 100*365*24*time.Hour))
		return ca, true, err
	case errCert != nil || errKey != nil:
		return nil, false, usagef("the CA needs both %s and %s in %s: %w", caCert, caKey, c.dir, errors.Join(errCert, errKey))
	}
	if ca, err = access.ParseAuthority(access.Pair{Cert: cert, Key: key}); err != nil {
		return nil, false, usagef("the CA in %s: %w", c.dir, err)
	}
	return ca, false, nil
}

// writePair writes each file whole or not at all: the key first, so that no
// process finds a certificate without it for longer than a moment.
func writePair(cert, key string, p access.Pair) (made []string, err error) {
	if err := os.MkdirAll(filepath.Dir(cert), 0o755); err != nil {
		return nil, usagef("--dir: %w", err)
	}
	for _, f := range []struct {
		path    string
		content []byte
		mode    fs.FileMode
	}{{key, p.Key, 0o600}, {cert, p.Cert, 0o644}} {
		if err := os.WriteFile(f.path+".new", f.content, f.mode); err != nil {
			return made, fmt.Errorf("%s: %w", f.path, err)
		}
		if err := os.Rename(f.path+".new", f.path); err != nil {
			return made, fmt.Errorf("%s: %w", f.path, err)
		}
		made = append(made, f.path)
	}
	return made, nil
}
