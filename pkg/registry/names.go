package registry

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The two kinds of names, by their sign. The values index Service.names.
const (
	clusterName = iota // '@'
	localName          // '.'
	nameKinds
)

// maxName is the longest name in bytes. It counts the sign, so that it is
// also the bound of the field that carries a name on the wire.
const maxName = 255

// Name is a registered name, with its sign, and the handle of its service.
type Name struct {
	Name   string
	Handle uint64
}

// CanonicalName gives name as the wire carries it: with its sign, which is
// "@" where name has none ("sdb" becomes "@sdb", ".launcher" stays). The
// result is 2 to 255 bytes, sign included, of valid UTF-8 without control
// characters (category Cc); anything else, a sign alone too, is an error that
// matches ErrInvalidName and says what is wrong.
func CanonicalName(name string) (string, error) {
	if name != "" && !hasSign(name) {
		name = "@" + name
	}
	if fault := nameFault(name); fault != "" {
		return "", fmt.Errorf("%w: %s", ErrInvalidName, fault)
	}
	return name, nil
}

// nameFault says what keeps a name with its sign from being valid; "" is valid.
func nameFault(name string) string {
	switch {
	case name == "":
		return "empty"
	case !hasSign(name):
		return "no sign"
	case len(name) == 1:
		return "a sign alone"
	case len(name) > maxName:
		return "longer than 255 bytes"
	case !utf8.ValidString(name):
		return "not UTF-8"
	case strings.ContainsFunc(name, isControl):
		return "control character"
	}
	return ""
}

func hasSign(name string) bool { return name[0] == '@' || name[0] == '.' }

// kindOf is for valid names only.
func kindOf(name string) int {
	if name[0] == '.' {
		return localName
	}
	return clusterName
}

// isControl says that a rune does not show, or turns the text around it: such
// names look like others.
func isControl(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }
