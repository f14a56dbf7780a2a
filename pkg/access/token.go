package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/metadata"
)

// Secrets are the tokens that a team shares: the first is shown to peers, and
// all of them are taken, so that one can be exchanged for another without a
// moment in which both ends disagree. They are never printed or logged.
type Secrets struct {
	show string
	take [][sha256.Size]byte
}

// minToken is the least length of a token, in bytes.
const minToken = 16

// NewSecrets takes tokens of at least 16 visible ASCII characters each.
func NewSecrets(tokens ...string) (*Secrets, error) {
	if len(tokens) == 0 {
		return nil, errors.New("no token is given")
	}
	s := &Secrets{show: tokens[0]}
	for i, t := range tokens {
		switch {
		case len(t) < minToken:
			return nil, fmt.Errorf("token %d has %d characters; %d are the least, and 32 random ones are better", i+1, len(t), minToken)
		case strings.ContainsFunc(t, func(r rune) bool { return r <= ' ' || r > '~' }):
			return nil, fmt.Errorf("token %d has a character that is no visible ASCII", i+1)
		}
		s.take = append(s.take, sha256.Sum256([]byte(t)))
	}
	return s, nil
}

// ParseTokens reads tokens from the text of a file, one a line; empty lines and
// those that begin with '#' are passed over. The error never holds any of them.
func ParseTokens(text string) ([]string, error) {
	var tokens []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			tokens = append(tokens, line)
		}
	}
	_, err := NewSecrets(tokens...)
	return tokens, err
}

// String hides the tokens.
func (s *Secrets) String() string { return "(secret)" }

// GoString hides the tokens.
func (s *Secrets) GoString() string { return "(secret)" }

const (
	tokenKey    = "authorization"
	tokenScheme = "Bearer "
)

// GetRequestMetadata shows the token when a stream is opened.
func (s *Secrets) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{tokenKey: tokenScheme + s.show}, nil
}

// DropToken takes the token out of metadata that is passed on.
func DropToken(md metadata.MD) { delete(md, tokenKey) }

// RequireTransportSecurity is false: where plaintext may be spoken at all is
// decided before a dial (M61).
func (s *Secrets) RequireTransportSecurity() bool { return false }

// The reasons why a token is refused.
var (
	errNoToken    = errors.New("this listener asks for the token that its team shares, and none came")
	errWrongToken = errors.New("the token is not the one that is asked for here")
)

// Check looks for a token among the metadata of a stream. All are compared, in
// constant time.
func (s *Secrets) Check(md metadata.MD) error {
	shown := md.Get(tokenKey)
	if len(shown) == 0 {
		return errNoToken
	}
	ok := 0
	for _, value := range shown {
		got := sha256.Sum256([]byte(strings.TrimPrefix(value, tokenScheme)))
		for i := range s.take {
			ok |= subtle.ConstantTimeCompare(got[:], s.take[i][:])
		}
	}
	if ok == 0 {
		return errWrongToken
	}
	return nil
}
