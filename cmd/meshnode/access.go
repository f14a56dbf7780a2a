package main

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/meshnode/meshnode/pkg/access"
	"github.com/meshnode/meshnode/pkg/discovery/file"
	"github.com/meshnode/meshnode/pkg/mesh"
)

const aboutAccess = `With --tls-cert, --tls-key and --tls-ca every link is encrypted, and both ends
show certificates; 'meshnode cert' makes some for trying it out. --token-file names
a file with a secret that a team shares, one a line: the first is shown, all are
taken. Without TLS it stays on this machine, as all plaintext does unless
--insecure is given.`

// accessFlags say who this process is, and how its links are secured.
type accessFlags struct {
	tls       mesh.TLS
	tokenFile string
}

func (a *accessFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&a.tls.Cert, "tls-cert", "", "PEM `FILE` with this process's certificate, and those between it and its CA")
	flags.StringVar(&a.tls.Key, "tls-key", "", "PEM `FILE` with its private key")
	flags.StringVar(&a.tls.CA, "tls-ca", "", "PEM `FILE` with the certificates of the CAs that sign for peers")
	flags.BoolVar(&a.tls.NodeIdentity, "node-identity", false, "peers must carry the names that they claim in their certificates (spiffe://DOMAIN/node/NAME, or a DNS name)")
	flags.StringVar(&a.tls.Domain, "trust-domain", "", "the only SPIFFE `DOMAIN` whose names count (default all)")
	flags.StringVar(&a.tokenFile, "token-file", "", "`FILE` with the tokens that the team shares, one a line")
}

// options adds what the flags say to those of the mesh.
func (a *accessFlags) options(o *mesh.Options) error {
	given := 0
	for _, f := range []string{a.tls.Cert, a.tls.Key, a.tls.CA} {
		if f != "" {
			given++
		}
	}
	switch {
	case given == 3:
		o.TLS = &a.tls
	case given > 0:
		return usagef("TLS needs --tls-cert, --tls-key and --tls-ca together")
	case a.tls.NodeIdentity || a.tls.Domain != "":
		return usagef("--node-identity and --trust-domain speak of certificates: give --tls-cert, --tls-key and --tls-ca too")
	}
	if a.tokenFile == "" {
		return nil
	}
	text, err := os.ReadFile(a.tokenFile)
	if err != nil {
		return usagef("--token-file: %w", err)
	}
	if o.Tokens, err = access.ParseTokens(string(text)); err != nil {
		return usagef("--token-file %s: %w", a.tokenFile, err)
	}
	return nil
}

// ruleFlags are those of a process that listens.
type ruleFlags struct {
	path string
}

func (r *ruleFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&r.path, "rules", "", "YAML `FILE` that says which identities may call which names and methods (docs/security.md)")
}

func (r *ruleFlags) options(o *mesh.Options) error {
	if r.path == "" {
		return nil
	}
	text, err := os.ReadFile(r.path)
	if err != nil {
		return usagef("--rules: %w", err)
	}
	if o.Rules, err = mesh.ParseRules(text); err != nil {
		return usagef("--rules %s: %w", r.path, err)
	}
	return nil
}

// watchAccess takes rules and tokens again when their files changed, until ctx
// ends. What is wrong leaves what was there.
func (s *server) watchAccess(ctx context.Context, watching *sync.WaitGroup) {
	watch := func(path, what string, take func([]byte) error) {
		if path == "" {
			return
		}
		o := file.Options{OnError: func(err error) {
			s.log.Error("a change of the "+what+" was not taken; everything stays as it was", zap.Error(err))
		}}
		first := true // the content that the process started with is no news
		watching.Go(func() {
			_ = file.WatchText(ctx, path, o, func(text []byte) error {
				if err := take(text); err != nil {
					return err
				}
				if !first {
					s.log.Info(what + " reloaded")
				}
				first = false
				return nil
			})
		})
	}
	watch(s.rules.path, "rules", func(text []byte) error {
		r, err := mesh.ParseRules(text)
		if err == nil {
			s.m.SetRules(r)
		}
		return err
	})
	watch(s.access.tokenFile, "tokens", func(text []byte) error {
		tokens, err := access.ParseTokens(string(text))
		if err != nil {
			return err
		}
		return s.m.SetTokens(tokens...)
	})
}

// guarded says in words how links are secured, for the log.
func (s *server) guarded() []zap.Field {
	fields := []zap.Field{zap.Bool("tls", s.access.tls.Cert != ""), zap.Bool("node_identity", s.access.tls.NodeIdentity),
		zap.Bool("token", s.access.tokenFile != "")}
	rules := "none: every peer that may link may call everything"
	if s.rules.path != "" {
		rules = fmt.Sprint(s.rules.path)
	}
	return append(fields, zap.String("rules", rules))
}
