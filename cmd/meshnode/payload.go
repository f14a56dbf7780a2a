package main

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/meshnode/meshnode/pkg/mesh"
)

const aboutPayload = `The payload is the argument PAYLOAD, or the content of --file, or what standard
input has, to its end: with PAYLOAD or --file as "-", and also where neither is
given and standard input is no terminal. So a script whose standard input is for
something else gives a payload, '' for an empty one. From a terminal the payload
is empty unless it is given. One that begins with "-" comes after "--".`

// readPayload finds the payload of a message. args are those after METHOD.
func readPayload(args []string, path string) ([]byte, error) {
	switch {
	case len(args) > 0 && path != "":
		return nil, usagef("the payload is given twice, as an argument and with --file: give one")
	case len(args) > 0 && args[0] != "-":
		return []byte(args[0]), nil
	case path != "" && path != "-":
		f, err := os.Open(path)
		if err != nil {
			return nil, usagef("--file: %w", err)
		}
		defer f.Close()
		return readAll(f, "--file "+path)
	case len(args) == 0 && path == "" && isTerminal(os.Stdin):
		return nil, nil
	default:
		return readAll(os.Stdin, "standard input")
	}
}

// readAll reads no more than a message can hold.
func readAll(f *os.File, what string) ([]byte, error) {
	most := mesh.Limits{}.WithDefaults().MessageBytes
	tooLarge := usagef("the payload, from %s, is too large: a message holds at most %d bytes", what, most)
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > most {
		return nil, tooLarge
	}
	var payload bytes.Buffer
	n, err := payload.ReadFrom(io.LimitReader(f, most+1))
	if err != nil {
		return nil, usagef("the payload, from %s: %w", what, err)
	}
	if n > most {
		return nil, tooLarge
	}
	return payload.Bytes(), nil
}

// output writes to standard output, byte for byte. Only on a terminal a text
// that does not end its line gets an end.
func output(text []byte) error {
	if len(text) > 0 && text[len(text)-1] != '\n' && isTerminal(os.Stdout) {
		text = append(text, '\n')
	}
	if _, err := os.Stdout.Write(text); err != nil {
		return &failure{code: exitFailed, err: fmt.Errorf("it is done, but the output could not be written: %w", err)}
	}
	return nil
}

// isTerminal takes /dev/null for one too, from which nothing comes and on which
// nothing shows, and a file that is closed.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err != nil || info.Mode()&os.ModeCharDevice != 0
}
