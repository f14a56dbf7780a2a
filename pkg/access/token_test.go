package access

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"
)

const (
	oldToken = "old-canary-0123456789"
	newToken = "new-canary-0123456789"
)

// The first token is shown, all are taken, and none is ever printed.
func TestSecrets(t *testing.T) {
	tokens, err := ParseTokens("# tokens\n" + newToken + "\n\n  " + oldToken + "  \n")
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSecrets(tokens...)
	if err != nil {
		t.Fatal(err)
	}
	shown, err := s.GetRequestMetadata(context.Background())
	if err != nil || shown["authorization"] != "Bearer "+newToken {
		t.Errorf("%v %v", shown, err)
	}
	for value, ok := range map[string]bool{
		"Bearer " + newToken: true, "Bearer " + oldToken: true, newToken: true, "Bearer " + newToken[1:]: false,
		"bearer " + newToken: false, "": false, "Bearer ": false, "Bearer # tokens": false,
	} {
		if err := s.Check(metadata.Pairs("authorization", value)); (err == nil) != ok {
			t.Errorf("%q: %v", value, err)
		} else if err != nil && strings.Contains(err.Error(), "canary") {
			t.Error(err)
		}
	}
	if s.Check(nil) == nil {
		t.Error("no token is taken")
	}
	if text := fmt.Sprintf("%v %+v %#v %s", s, s, s, s); strings.Contains(text, "canary") {
		t.Error(text)
	}
	for _, bad := range []string{"", "# nothing\n", "short\n", "with a space in it 0123\n", "umlaut-\u00e4-0123456789\n"} {
		if _, err := ParseTokens(bad); err == nil || strings.Contains(err.Error(), "umlaut") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
