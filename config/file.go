package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

// given is a value as it was written, and where: "FILE:12", a variable, a flag.
type given struct{ text, from string }

// layer holds what one source of settings says, by path.
type layer map[string]given

func readFile(t tree, name string) (layer, []error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, []error{fmt.Errorf("reading the configuration: %w", err)}
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, []error{fmt.Errorf("reading the configuration: %w", err)}
	}
	return parseFile(t, name, data)
}

// parseFile reads YAML by its nodes and not into values: a value keeps its text (a
// password 0123 is no octal number) and every error its line.
func parseFile(t tree, name string, data []byte) (layer, []error) {
	if len(data) > maxFile {
		return nil, []error{fmt.Errorf("%s: over %d bytes: this is no configuration file", name, maxFile)}
	}
	if line := garbage(data); line > 0 {
		return nil, []error{fmt.Errorf("%s:%d: not a text in UTF-8: write YAML, such as listen: 127.0.0.1:6380", name, line)}
	}
	var document, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return layer{}, nil
	} else if err != nil {
		return nil, []error{syntaxError(name, data, err)}
	}
	if err := decoder.Decode(&second); err == nil {
		return nil, []error{fmt.Errorf("%s:%d: a second document: keep one", name, second.Line)}
	} else if !errors.Is(err, io.EOF) {
		return nil, []error{syntaxError(name, data, err)}
	}
	r := fileReader{tree: t, name: name, layer: layer{}, lines: map[string]int{}}
	if len(document.Content) == 1 {
		r.section(document.Content[0], "")
	}
	return r.layer, r.problems
}

// garbage returns the first line that is no text, or 0.
func garbage(data []byte) int {
	for i, rest := 0, data; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		if (r == utf8.RuneError && size == 1) || (r < ' ' && r != '\t' && r != '\n' && r != '\r') || r == 0x7f {
			return 1 + bytes.Count(data[:i], []byte("\n"))
		}
		i, rest = i+size, rest[size:]
	}
	return 0
}

var (
	lineOf   = regexp.MustCompile(`^line (\d+): `)
	anchorOf = regexp.MustCompile(`unknown anchor '(.*)' referenced`)
)

// syntaxError puts the line where an editor finds it and keeps what the parser
// quotes from the file, which may be part of a secret, out.
func syntaxError(name string, data []byte, err error) error {
	text := strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " ")
	line := "1" // what the parser means when it names none
	if match := lineOf.FindStringSubmatch(text); match != nil {
		line, text = match[1], text[len(match[0]):]
	}
	if match := anchorOf.FindStringSubmatch(text); match != nil {
		before, _, _ := bytes.Cut(data, []byte("*"+match[1]))
		line = strconv.Itoa(1 + bytes.Count(before, []byte("\n")))
		text = "a value that begins with * must stand in quotes"
	}
	return fmt.Errorf("%s:%s: not valid YAML: %s", name, line, text)
}

type fileReader struct {
	tree     tree
	name     string
	layer    layer
	lines    map[string]int // where a path was written first
	problems []error
}

func (r *fileReader) fail(node *yaml.Node, format string, args ...any) {
	r.problems = append(r.problems, fmt.Errorf("%s:%d: "+format, append([]any{r.name, node.Line}, args...)...))
}

// section reads a mapping. It cannot recurse deeper than the tree is, whatever
// aliases a file has.
func (r *fileReader) section(node *yaml.Node, prefix string) {
	node = resolve(node)
	if isNull(node) {
		return
	}
	if node.Kind != yaml.MappingNode {
		r.fail(node, "%s: expected lines KEY: VALUE, such as listen: 127.0.0.1:6380", cmp.Or(strings.TrimSuffix(prefix, "."), "the file"))
		return
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := resolve(node.Content[i]), node.Content[i+1]
		if name.Kind != yaml.ScalarNode {
			r.fail(name, "a key must be a word: write KEY: VALUE")
			continue
		}
		r.entry(prefix+name.Value, name, value)
	}
}

func (r *fileReader) entry(path string, name, value *yaml.Node) {
	if line, twice := r.lines[path]; twice {
		r.fail(name, "%s: written twice, first in line %d: keep one", path, line)
		return
	}
	r.lines[path] = name.Line
	value = resolve(value)
	k, leaf := r.tree.byPath[path]
	switch {
	case leaf:
		r.leaf(k, value)
	case r.tree.sections[path] && value.Kind == yaml.ScalarNode && !isNull(value) && shorts[path] != "":
		r.leaf(r.tree.byPath[shorts[path]], value)
	case r.tree.sections[path]:
		r.section(value, path+".")
	default:
		r.fail(name, "unknown key %q: did you mean %q?", brief(path), r.nearest(path))
	}
}

func (r *fileReader) nearest(path string) string {
	byName, names := r.tree.names(func(path string) string { return path })
	found := nearest(path, append(names, slices.Sorted(maps.Keys(r.tree.sections))...))
	if r.tree.sections[found] {
		return found
	}
	return byName[found].path
}

func (r *fileReader) leaf(k key, value *yaml.Node) {
	text, ok := r.text(k, value)
	if !ok {
		r.fail(value, "%s: not a plain value: write %s", k.path, wanted(k.typ))
		return
	}
	if isNull(value) {
		return
	}
	if before, twice := r.layer[k.path]; twice {
		r.fail(value, "%s: written twice, first at %s: keep one", k.path, before.from)
		return
	}
	r.layer[k.path] = given{text: text, from: fmt.Sprintf("%s:%d", r.name, value.Line)}
}

// text gives lists and maps the form that they have in the environment.
func (r *fileReader) text(k key, value *yaml.Node) (string, bool) {
	plain := func(node *yaml.Node) (string, bool) {
		node = resolve(node)
		return node.Value, node.Kind == yaml.ScalarNode && plainTags[node.ShortTag()]
	}
	inside := func(node *yaml.Node, separators string) (string, bool) {
		text, ok := plain(node)
		return text, ok && !isNull(resolve(node)) && !strings.ContainsAny(text, separators)
	}
	if isRecords(k.typ) {
		return recordsText(value)
	}
	kind := k.typ.Kind()
	var parts []string
	switch {
	case value.Kind == yaml.SequenceNode && kind == reflect.Slice:
		for _, item := range value.Content {
			text, ok := inside(item, ",")
			if !ok {
				return "", false
			}
			parts = append(parts, text)
		}
	case value.Kind == yaml.MappingNode && kind == reflect.Map:
		for i := 0; i+1 < len(value.Content); i += 2 {
			from, ok1 := inside(value.Content[i], ",=")
			to, ok2 := inside(value.Content[i+1], ",=")
			if place := resolve(value.Content[i+1]); place.Kind == yaml.MappingNode {
				to, ok2 = placeText(place)
			}
			if !ok1 || !ok2 {
				return "", false
			}
			parts = append(parts, from+"="+to)
		}
	default:
		return plain(value)
	}
	return strings.Join(parts, ","), true
}

var plainTags = map[string]bool{"!!str": true, "!!int": true, "!!float": true, "!!bool": true, "!!null": true, "!!timestamp": true}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}

func resolve(node *yaml.Node) *yaml.Node {
	for node.Kind == yaml.AliasNode && node.Alias != nil {
		node = node.Alias
	}
	return node
}

// wanted says what a key of a type takes.
func wanted(typ reflect.Type) string {
	switch typ.Kind() {
	case reflect.Map:
		return "SOURCE: TARGET pairs, such as {0: 0, 3: 5} or {3: {db: 0, prefix: \"c3:\"}}"
	case reflect.Slice:
		if isRecords(typ) {
			keys := recordKeys(typ.Elem())
			return fmt.Sprintf("a list of records, such as [{%s: app, %s: …}]", keys[0], keys[1])
		}
		if typ.Elem().Kind() == reflect.String {
			return "a list, such as [a, b], without commas inside"
		}
		return "a list of databases, such as [1, 2]"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number, such as 1000"
	case reflect.Int64:
		return "a duration, such as 50ms or 2s"
	default:
		return "one text"
	}
}
