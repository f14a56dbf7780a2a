package access

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// RulesError lists every mistake of a file of rules.
type RulesError struct{ Mistakes []string }

// Error is the mistakes, a line each.
func (e *RulesError) Error() string {
	if len(e.Mistakes) == 1 {
		return "rules: " + e.Mistakes[0]
	}
	return fmt.Sprintf("rules: %d mistakes:\n  %s", len(e.Mistakes), strings.Join(e.Mistakes, "\n  "))
}

// ruleFile is the file as YAML has it.
type ruleFile struct {
	Default word       `yaml:"default"`
	Rules   []ruleYAML `yaml:"rules"`
}

type ruleYAML struct {
	line    int
	Allow   words `yaml:"allow"`
	Deny    words `yaml:"deny"`
	Call    words `yaml:"call"`
	Methods words `yaml:"methods"`
	Serve   words `yaml:"serve"`
	Rights  words `yaml:"rights"`
}

var ruleKeys = []string{"allow", "deny", "call", "methods", "serve", "rights"}

// UnmarshalYAML keeps the line.
func (y *ruleYAML) UnmarshalYAML(n *yaml.Node) error {
	y.line = n.Line
	if n.Kind != yaml.MappingNode {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: a rule has keys (%s); this is none", n.Line, strings.Join(ruleKeys, ", "))}}
	}
	var wrong []string
	for i := 0; i < len(n.Content); i += 2 {
		if k := n.Content[i]; !slices.Contains(ruleKeys, k.Value) {
			wrong = append(wrong, fmt.Sprintf("line %d: unknown key %q; a rule has %s", k.Line, k.Value, strings.Join(ruleKeys, ", ")))
		}
	}
	if len(wrong) > 0 {
		return &yaml.TypeError{Errors: wrong}
	}
	type plain ruleYAML
	return n.Decode((*plain)(y))
}

// word is a text and where it stands.
type word struct {
	text string
	line int
}

// UnmarshalYAML takes strings alone: a number or a truth is a mistake.
func (w *word) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: a text is wanted; quote it where YAML takes it for something else", n.Line)}}
	}
	w.text, w.line = n.Value, n.Line
	return nil
}

// words are one or several.
type words []word

// UnmarshalYAML takes a text for a list of one.
func (ws *words) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		var w word
		if err := n.Decode(&w); err != nil {
			return err
		}
		*ws = words{w}
		return nil
	}
	var list []word
	if err := n.Decode(&list); err != nil {
		return err
	}
	*ws = list
	return nil
}

func (ws words) texts() []string {
	ts := make([]string, 0, len(ws))
	for _, w := range ws {
		ts = append(ts, w.text)
	}
	return ts
}

// ParseRules reads rules from YAML:
//
//	default: deny                       # or allow: what no rule speaks of
//	rules:
//	  - allow: [web, "worker-*"]        # identities; "*" is everyone
//	    call: ["@sdb"]                  # names of services, with their signs
//	    methods: [GET, "/simpledb.v1.SimpleDBService/*"]    # default: all
//	  - deny: [token, unknown]          # deny wins over allow
//	    call: ["@admin"]
//	  - allow: [edge]
//	    rights: [query, process, forward, behalf]
//	  - allow: ["model-*"]
//	    serve: ["@model"]               # names that it may register
//
// It is all or nothing; the error is a *RulesError with every mistake.
func ParseRules(text []byte) (*Rules, error) {
	var f ruleFile
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	switch err := d.Decode(&f); {
	case errors.Is(err, io.EOF):
		return nil, &RulesError{[]string{"the file is empty; write default: deny, or take the option away"}}
	case err != nil:
		var te *yaml.TypeError
		if errors.As(err, &te) {
			return nil, &RulesError{te.Errors}
		}
		return nil, &RulesError{[]string{strings.TrimPrefix(err.Error(), "yaml: ")}}
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, &RulesError{[]string{"there is a second document; one is read"}}
	}
	return f.rules()
}

func (f *ruleFile) rules() (*Rules, error) {
	r, wrong := &Rules{}, &RulesError{}
	switch f.Default.text {
	case "allow":
		r.allowed = true
	case "deny":
	case "":
		wrong.Mistakes = append(wrong.Mistakes, "default is missing: write default: deny, or default: allow")
	default:
		wrong.add(f.Default.line, "default is %q; it is deny or allow", f.Default.text)
	}
	for i := range f.Rules {
		r.rules = append(r.rules, f.Rules[i].rule(wrong))
	}
	if len(wrong.Mistakes) > 0 {
		return nil, wrong
	}
	return r, nil
}

func (e *RulesError) add(line int, format string, args ...any) {
	e.Mistakes = append(e.Mistakes, fmt.Sprintf("line %d: ", line)+fmt.Sprintf(format, args...))
}

func (y *ruleYAML) rule(wrong *RulesError) rule {
	x := rule{allow: len(y.Allow) > 0, who: append(y.Allow.texts(), y.Deny.texts()...),
		call: y.Call.texts(), methods: y.Methods.texts(), serve: y.Serve.texts()}
	switch {
	case len(y.Allow) > 0 && len(y.Deny) > 0:
		wrong.add(y.line, "allow and deny in one rule: write two")
	case len(x.who) == 0:
		wrong.add(y.line, `for whom is the rule? Give allow or deny a list of identities; "*" is everyone`)
	}
	if len(x.call)+len(x.serve)+len(y.Rights) == 0 {
		wrong.add(y.line, "what is the rule about? Give call, serve or rights")
	}
	if len(x.methods) > 0 && len(x.call) == 0 {
		wrong.add(y.line, "methods without call: whose methods are they?")
	}
	for _, list := range []words{y.Allow, y.Deny, y.Call, y.Methods, y.Serve} {
		for _, w := range list {
			if w.text == "" {
				wrong.add(w.line, "an empty text matches nothing")
			}
		}
	}
	for _, list := range []words{y.Call, y.Serve} {
		for _, w := range list {
			if w.text != "" && !strings.ContainsRune("@.*", rune(w.text[0])) {
				wrong.add(w.line, `%q has no sign: write "@%s" or ".%s"`, w.text, w.text, w.text)
			}
		}
	}
	for _, w := range y.Rights {
		if !slices.Contains(rights, Right(w.text)) {
			wrong.add(w.line, "%q is no right; there are %v", w.text, rights)
		}
		x.rights = append(x.rights, Right(w.text))
	}
	return x
}
